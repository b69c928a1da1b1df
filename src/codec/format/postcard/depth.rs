//! A limit of the nesting of decoded values.
//!
//! postcard has no limit. A payload of 64 KiB for a type that contains itself would overflow
//! the stack, which aborts the process (design.md: Why is nesting limited in postcard?).

use std::{fmt, mem::size_of};

use serde::{
    Deserializer,
    de::{DeserializeSeed, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor},
};

/// Maximum number of elements without a size in a sequence or a map. They have no bytes in the
/// payload, so that five bytes could otherwise ask for four billion of them.
const MAX_EMPTY: usize = 1024;

/// A deserializer, visitor or access of serde, with the number of levels that may be inside it.
///
/// A level is a value that decides how many values are inside it: an option, a sequence, a map
/// or an enum. A type that contains itself must do so through one of these.
pub(super) struct Limited<T> {
    inner: T,
    left: u8,
}

impl<T> Limited<T> {
    /// Limits the nesting inside `inner` to `levels`.
    #[inline]
    pub(super) const fn new(inner: T, levels: u8) -> Self {
        Self {
            inner,
            left: levels,
        }
    }

    /// Returns the number of levels that may be inside the next one.
    #[inline]
    fn enter<E: Error>(&self) -> Result<u8, E> {
        match self.left.checked_sub(1) {
            Some(left) => Ok(left),
            None => Err(E::custom("nested too deeply")),
        }
    }
}

macro_rules! forward {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.inner.$method(visitor)
        }
    )*};
}

macro_rules! enter {
    ($($method:ident($($name:ident: $type:ty),*))*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(
            self, $($name: $type,)* visitor: V,
        ) -> Result<V::Value, D::Error> {
            let left = self.enter()?;
            self.inner.$method($($name,)* Limited::new(visitor, left))
        }
    )*};
}

macro_rules! pass {
    ($($method:ident($($name:ident: $type:ty),*))*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(
            self, $($name: $type,)* visitor: V,
        ) -> Result<V::Value, D::Error> {
            self.inner.$method($($name,)* Limited::new(visitor, self.left))
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Limited<D> {
    type Error = D::Error;

    forward! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32
        deserialize_i64 deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64 deserialize_char
        deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_unit deserialize_identifier deserialize_ignored_any
    }

    enter! {
        deserialize_option()
        deserialize_seq()
        deserialize_map()
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    pass! {
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_tuple(length: usize)
        deserialize_tuple_struct(name: &'static str, length: usize)
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        self.inner.is_human_readable()
    }
}

/// Elements of a sequence or a map, with the number of those without a size.
struct Elements<A> {
    inner: A,
    left: u8,
    empty: usize,
}

impl<A> Elements<A> {
    #[inline]
    const fn new(inner: A, left: u8) -> Self {
        Self {
            inner,
            left,
            empty: 0,
        }
    }

    /// Counts an element of type `T`.
    #[inline]
    fn count<T, E: Error>(&mut self) -> Result<(), E> {
        if const { size_of::<T>() == 0 } {
            self.empty += 1;
            // one call more finds the end
            if self.empty > MAX_EMPTY + 1 {
                return Err(E::custom("too many elements without a size"));
            }
        }
        Ok(())
    }
}

/// Visits the values that have others inside them. The visitor of any other value is not
/// limited.
impl<'de, V: Visitor<'de>> Visitor<'de> for Limited<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    #[inline]
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_none()
    }

    #[inline]
    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner.visit_some(Limited::new(inner, self.left))
    }

    #[inline]
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.inner.visit_unit()
    }

    #[inline]
    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.inner
            .visit_newtype_struct(Limited::new(inner, self.left))
    }

    #[inline]
    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_seq(Elements::new(inner, self.left))
    }

    #[inline]
    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_map(Elements::new(inner, self.left))
    }

    #[inline]
    fn visit_enum<A: EnumAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        self.inner.visit_enum(Limited::new(inner, self.left))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Limited<S> {
    type Value = S::Value;

    #[inline]
    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.inner.deserialize(Limited::new(inner, self.left))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<A> {
    type Error = A::Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.count::<S::Value, A::Error>()?;
        self.inner.next_element_seed(Limited::new(seed, self.left))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Elements<A> {
    type Error = A::Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, A::Error> {
        self.count::<S::Value, A::Error>()?;
        self.inner.next_key_seed(Limited::new(seed, self.left))
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.inner.next_value_seed(Limited::new(seed, self.left))
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.inner.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Limited<A> {
    type Error = A::Error;
    type Variant = Limited<A::Variant>;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), A::Error> {
        let (value, variant) = self.inner.variant_seed(seed)?;
        Ok((value, Limited::new(variant, self.left)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Limited<A> {
    type Error = A::Error;

    #[inline]
    fn unit_variant(self) -> Result<(), A::Error> {
        self.inner.unit_variant()
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.inner
            .newtype_variant_seed(Limited::new(seed, self.left))
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner
            .tuple_variant(length, Limited::new(visitor, self.left))
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, A::Error> {
        self.inner
            .struct_variant(fields, Limited::new(visitor, self.left))
    }
}
