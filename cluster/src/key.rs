//! Keys of topics and ids of claims.

use std::{borrow::Cow, hash::Hash, sync::Arc};

use bytes::Bytes;

/// Name that has a form in bytes, such as the key of a topic or the id of a user.
///
/// Equal values must have equal bytes, and different values different bytes, on every node.
pub trait KeyBytes {
    /// Returns the bytes. They may have up to 4,096 bytes; see
    /// [`Unsendable`](crate::Unsendable).
    fn key_bytes(&self) -> Cow<'_, [u8]>;
}

/// Key of a topic in a cluster.
pub trait Key: KeyBytes + Clone + Eq + Hash + Send + Sync + 'static {
    /// Returns the key with these bytes, or `None` if there is no such key. Another node has sent
    /// the bytes.
    fn from_key_bytes(bytes: &[u8]) -> Option<Self>;
}

macro_rules! text {
    ($($type:ty),*) => {
        $(
            impl KeyBytes for $type {
                fn key_bytes(&self) -> Cow<'_, [u8]> {
                    Cow::Borrowed(self.as_bytes())
                }
            }

            impl Key for $type {
                fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
                    std::str::from_utf8(bytes).ok().map(Self::from)
                }
            }
        )*
    };
}

macro_rules! bytes {
    ($($type:ty),*) => {
        $(
            impl KeyBytes for $type {
                fn key_bytes(&self) -> Cow<'_, [u8]> {
                    Cow::Borrowed(self)
                }
            }

            impl Key for $type {
                fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
                    Some(bytes.to_vec().into())
                }
            }
        )*
    };
}

macro_rules! number {
    ($($type:ty),*) => {
        $(
            impl KeyBytes for $type {
                fn key_bytes(&self) -> Cow<'_, [u8]> {
                    Cow::Owned(self.to_string().into_bytes())
                }
            }

            impl Key for $type {
                fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
                    let text = std::str::from_utf8(bytes).ok()?;
                    let key: Self = text.parse().ok()?;
                    // `+7` and `07` are no keys: each key has one form
                    (key.to_string() == text).then_some(key)
                }
            }
        )*
    };
}

text!(String, Arc<str>, Box<str>);
bytes!(Vec<u8>, Bytes, Arc<[u8]>);
number!(u16, u32, u64, u128, i32, i64);

/// The key of a topic that is the only one of its set; see
/// [`ClusterGroup`](crate::ClusterGroup).
impl KeyBytes for () {
    fn key_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&[])
    }
}

impl Key for () {
    fn from_key_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.is_empty().then_some(())
    }
}

impl KeyBytes for str {
    fn key_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self.as_bytes())
    }
}

impl KeyBytes for [u8] {
    fn key_bytes(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<K: Key + std::fmt::Debug>(key: &K) {
        assert_eq!(K::from_key_bytes(&key.key_bytes()).as_ref(), Some(key));
    }

    #[test]
    fn keys_are_the_same_after_their_bytes() {
        round_trip(&"lobby".to_owned());
        round_trip(&Arc::<str>::from(""));
        round_trip(&Bytes::from_static(b"\0\xff"));
        round_trip(&());
        assert_eq!(<()>::from_key_bytes(b"7"), None);
        round_trip(&u64::MAX);
        round_trip(&-7_i64);
        assert_eq!(u64::from_key_bytes(b"+7"), None);
        assert_eq!(u64::from_key_bytes(b"07"), None);
        assert_eq!(String::from_key_bytes(b"\xff"), None);
    }
}
