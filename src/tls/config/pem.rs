//! Sources of PEM: files and inline text.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use crate::platform;

/// Source of PEM: the path of a file or the text itself. All types of paths convert into it.
///
/// ```
/// use getty::tls::Pem;
///
/// assert_eq!(Pem::from("/etc/getty/key.pem").to_string(), "/etc/getty/key.pem");
/// // `Debug` does not show the text.
/// assert_eq!(format!("{:?}", Pem::inline("-----BEGIN ...")), "Pem(inline PEM)");
/// ```
#[derive(Clone)]
pub struct Pem(Source);

#[derive(Clone)]
enum Source {
    File(Arc<Path>),
    Inline(Arc<[u8]>),
}

/// Time of the last write, length, and (on Unix) inode number of a file. A file that replaces
/// another has a different number.
pub(super) type Stamp = (Option<SystemTime>, u64, u64);

impl Pem {
    /// Creates a source with the text itself, for example from a secret store.
    #[must_use]
    pub fn inline(text: impl Into<Vec<u8>>) -> Self {
        Self(Source::Inline(text.into().into()))
    }

    pub(super) fn read(&self) -> io::Result<Vec<u8>> {
        match &self.0 {
            Source::File(path) => fs::read(path),
            Source::Inline(text) => Ok(text.to_vec()),
        }
    }

    /// Returns the stamp of a file. It is `None` for inline text and for a missing file.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let Source::File(path) = &self.0 else {
            return None;
        };
        let metadata = fs::metadata(path).ok()?;
        let number = platform::file_number(&metadata);
        Some((metadata.modified().ok(), metadata.len(), number))
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Pem {
    fn from(path: &P) -> Self {
        Self(Source::File(path.as_ref().into()))
    }
}

impl From<PathBuf> for Pem {
    fn from(path: PathBuf) -> Self {
        Self(Source::File(path.into()))
    }
}

impl From<String> for Pem {
    fn from(path: String) -> Self {
        PathBuf::from(path).into()
    }
}

impl fmt::Display for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::File(path) => path.display().fmt(f),
            Source::Inline(_) => f.write_str("inline PEM"),
        }
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pem({self})")
    }
}
