//! Keys of routes, and the tables that find routes by key.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hash, Hasher},
};

use bytes::Bytes;

/// Messages with a key that selects their handler in a [`Router`](super::Router).
///
/// ```
/// use getty::{codec::Bytes, handler::Keyed};
///
/// struct Frame {
///     opcode: u16,
///     payload: Bytes,
/// }
///
/// impl Keyed for Frame {
///     type Key = u16;
///
///     fn key(&self) -> &u16 {
///         &self.opcode
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no key, by which a `Router` finds its handler",
    label = "not `Keyed`",
    note = "`impl Keyed for {Self}` returns the key of a message: an opcode or a name"
)]
pub trait Keyed {
    /// Type of the key: `u8`, `u16`, `u32`, `u64`, `str` or [`NoCase`].
    type Key: RouteKey + ?Sized;

    /// Returns the key.
    fn key(&self) -> &Self::Key;
}

/// Types of keys. getty implements it for the types of this table, and others cannot:
///
/// | key | how a route is found |
/// |---|---|
/// | `u8`, `u16` | in an array, two bytes for each number up to the highest route |
/// | `u32`, `u64` | by a hash |
/// | `str` | by a hash; the case matters |
/// | [`NoCase`] | by a hash; the case of ASCII letters does not matter |
///
/// The hash function has no secret. Only the program adds routes, so a peer cannot make them
/// collide.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a type of keys",
    note = "keys are `u8`, `u16`, `u32`, `u64`, `str` and `NoCase`"
)]
pub trait RouteKey: fmt::Debug {
    /// The key of a route.
    type Owned: fmt::Debug + Clone + Send + Sync + 'static;

    /// Finds routes.
    #[doc(hidden)]
    type Table: Table<Self>;
}

/// Values that can be the key of a route: a number, or a `&str` or `String` for names.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not the key of a route to messages with the key `{K}`",
    label = "not a key",
    note = "numbers are keys of their type; `&str` and `String` are keys of `str` and `NoCase`"
)]
pub trait IntoKey<K: RouteKey + ?Sized> {
    /// Converts the value into the key.
    fn into_key(self) -> K::Owned;
}

/// Finds routes by their keys.
pub trait Table<K: RouteKey + ?Sized>: Clone + Default + Send + Sync + 'static {
    /// Adds a route. Returns the index of an earlier route with this key.
    fn insert(&mut self, key: K::Owned, index: usize) -> Result<(), usize>;

    /// Returns the index of the route with this key, or `usize::MAX` for none: the caller checks
    /// the index in any case.
    fn find(&self, key: &K) -> usize;
}

/// Routes by number. The index of a route is one less than its entry. 0 is no route.
#[derive(Clone, Debug, Default)]
pub struct Dense(Vec<u16>);

/// Hash table of routes.
#[derive(Clone, Debug)]
pub struct Hashed<K>(HashMap<K, usize, BuildHasherDefault<Fnv>>);

impl<K> Default for Hashed<K> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

macro_rules! keys {
    ($($key:ty, $owned:ty, $table:ty;)*) => {$(
        impl RouteKey for $key {
            type Owned = $owned;
            type Table = $table;
        }
    )*};
}

keys! {
    u8, u8, Dense;
    u16, u16, Dense;
    u32, u32, Hashed<u32>;
    u64, u64, Hashed<u64>;
    str, String, Hashed<String>;
    NoCase, NoCase, Hashed<NoCase>;
}

macro_rules! dense {
    ($($key:ty)*) => {$(
        impl Table<$key> for Dense {
            fn insert(&mut self, key: $key, index: usize) -> Result<(), usize> {
                let key = usize::from(key);
                if self.0.len() <= key {
                    self.0.resize(key + 1, 0);
                }
                let entry = &mut self.0[key];
                if *entry != 0 {
                    return Err(usize::from(*entry) - 1);
                }
                *entry = u16::try_from(index + 1).expect("at most 65,535 routes");
                Ok(())
            }

            #[inline]
            fn find(&self, key: &$key) -> usize {
                let entry = self.0.get(usize::from(*key)).copied().unwrap_or(0);
                usize::from(entry).wrapping_sub(1)
            }
        }
    )*};
}

dense!(u8 u16);

macro_rules! hashed {
    ($($key:ty, $owned:ty;)*) => {$(
        impl Table<$key> for Hashed<$owned> {
            fn insert(&mut self, key: $owned, index: usize) -> Result<(), usize> {
                match self.0.get(&key) {
                    Some(earlier) => Err(*earlier),
                    None => {
                        self.0.insert(key, index);
                        Ok(())
                    }
                }
            }

            #[inline]
            fn find(&self, key: &$key) -> usize {
                self.0.get(key).copied().unwrap_or(usize::MAX)
            }
        }
    )*};
}

hashed! {
    u32, u32;
    u64, u64;
    str, String;
    NoCase, NoCase;
}

macro_rules! into_key {
    ($($from:ty, $key:ty;)*) => {$(
        impl IntoKey<$key> for $from {
            fn into_key(self) -> <$key as RouteKey>::Owned {
                self.into()
            }
        }
    )*};
}

into_key! {
    u8, u8;
    u16, u16;
    u32, u32;
    u64, u64;
    &str, str;
    String, str;
    &str, NoCase;
    String, NoCase;
    NoCase, NoCase;
}

/// Name whose ASCII letters match in either case. `Display` shows the case that it was created
/// with.
///
/// ```
/// use getty::handler::NoCase;
///
/// assert_eq!(NoCase::from("PING"), NoCase::from("ping"));
/// ```
#[derive(Clone)]
pub struct NoCase(pub Bytes);

impl From<Bytes> for NoCase {
    fn from(name: Bytes) -> Self {
        Self(name)
    }
}

impl From<&str> for NoCase {
    fn from(name: &str) -> Self {
        Self(Bytes::copy_from_slice(name.as_bytes()))
    }
}

impl From<String> for NoCase {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl PartialEq for NoCase {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for NoCase {}

impl Hash for NoCase {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in &self.0 {
            state.write_u8(byte.to_ascii_uppercase());
        }
    }
}

impl fmt::Debug for NoCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl fmt::Display for NoCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

/// FNV-1a, which is fast for short keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finds<K: RouteKey + ?Sized>(keys: &[K::Owned], other: &K, borrow: fn(&K::Owned) -> &K) {
        let mut table = K::Table::default();
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(table.find(borrow(key)), usize::MAX);
            assert_eq!(table.insert(key.clone(), index), Ok(()));
        }
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(table.find(borrow(key)), index);
            assert_eq!(table.insert(key.clone(), 99), Err(index));
        }
        assert_eq!(table.find(other), usize::MAX);
    }

    #[test]
    fn each_type_of_keys_finds_its_routes_and_no_others() {
        finds::<u8>(&[0, 7, 255], &8, |key| key);
        finds::<u16>(&[0, 7, u16::MAX], &8, |key| key);
        finds::<u32>(&[0, 7, u32::MAX], &8, |key| key);
        finds::<u64>(&[0, 7, u64::MAX], &8, |key| key);
        let names = ["", "PING", "PONG"].map(String::from);
        finds::<str>(&names, "ping", |key| key);
        let names = ["", "PING", "PONG"].map(NoCase::from);
        finds::<NoCase>(&names, &NoCase::from("PIN"), |key| key);
    }

    #[test]
    fn no_case_ignores_the_case_of_ascii_letters_only() {
        let mut table = Hashed::<NoCase>::default();
        Table::<NoCase>::insert(&mut table, "Größe".into(), 1).unwrap();
        assert_eq!(table.find(&NoCase::from("grÖSSE")), usize::MAX);
        assert_eq!(table.find(&NoCase::from("GRößE")), 1);
        assert_eq!(NoCase::from("Ping").to_string(), "Ping");
    }
}
