//! safetensors files and sharded folders, read and written as streams.
