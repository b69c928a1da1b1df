//! Store of claims: values that are replaced only by who knows the current one.

use std::{error::Error, fmt, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tower::BoxError;

use crate::Subject;

/// Store with compare-and-set. Changes of one key must be in one order for all nodes.
pub trait Store: Send + Sync + 'static {
    /// Returns the current entry of `key`.
    fn get(&self, key: &Subject) -> BoxFuture<'_, Result<Option<Entry>, StoreError>>;

    /// Sets the value of `key` if its current revision is `was`, where `None` means that it has no
    /// entry. Returns the new revision. The entry may expire after 48 h.
    ///
    /// After an error, the value may have been set nevertheless.
    fn put_if(
        &self,
        key: &Subject,
        was: Option<Revision>,
        value: Bytes,
    ) -> BoxFuture<'_, Result<Revision, PutError>>;

    /// Removes the entry of `key` if its current revision is `was`. Returns `false` if it is not.
    fn remove_if(&self, key: &Subject, was: Revision) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Returns the number of the part of the store that has `key`. A part can fail while the others
    /// work. The default is 0: there is one part.
    fn part(&self, key: &Subject) -> usize {
        let _ = key;
        0
    }
}

/// Revision of an entry. Each change of a key gives it a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revision(pub u64);

/// Entry of a [`Store`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The revision of this value.
    pub revision: Revision,
    /// The value. It is `None` if the entry was removed and the store knows its last revision. Then
    /// [`put_if`](Store::put_if) expects that revision.
    pub value: Option<Bytes>,
}

/// Error of a [`Store`] that cannot be reached or has failed. It can be cloned.
#[derive(Clone, Debug)]
pub struct StoreError(Arc<dyn Error + Send + Sync>);

impl StoreError {
    /// Creates a new error with its cause.
    pub fn new(cause: impl Into<BoxError>) -> Self {
        Self(Arc::from(cause.into()))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the store of claims failed")
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// Error of [`Store::put_if`].
#[derive(Clone, Debug)]
pub enum PutError {
    /// The entry has another revision.
    Conflict,
    /// The store cannot be reached or has failed.
    Store(StoreError),
}

impl From<StoreError> for PutError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for PutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict => f.write_str("the entry has another revision"),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl Error for PutError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Conflict => None,
            Self::Store(error) => error.source(),
        }
    }
}
