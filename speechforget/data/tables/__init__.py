"""Tables and folders that users write: manifests, folder layouts, text."""
