//! Conversions: from a GGUF file to a directory and back.
