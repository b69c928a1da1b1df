//! Codecs for first use: length-delimited, lines, raw bytes, each with a maximum that is always on.
