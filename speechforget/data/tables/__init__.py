"""Tables and folders that users write: manifests, layouts, text."""
