"""`minihmx report`: one HTML page, or Markdown, of what stands on disk. A section is a file here
and a line in sections.SECTIONS. No torch."""
