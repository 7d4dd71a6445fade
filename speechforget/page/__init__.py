"""The self-contained page of a report: verdicts, tables, charts and utterances of a record, in one HTML file."""
