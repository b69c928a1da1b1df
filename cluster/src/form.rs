//! Form of messages between nodes.

use std::{fmt, marker::PhantomData, str, sync::Arc};

use bytes::{BufMut, Bytes, BytesMut};
use tower::BoxError;

/// Form of messages on the bus.
///
/// A message is written once on the publishing node and read once on each node that receives
/// it. There, each protocol of the members encodes it once, as in every group. So the form is
/// independent of the protocols of sessions.
///
/// [`Plain`] is for text and bytes, and `Json` (feature `json`) for types that implement
/// serde's traits.
pub trait Form<M>: Send + Sync + 'static {
    /// Appends the form of `message` to `to`.
    ///
    /// # Errors
    ///
    /// An error refuses the message: no member gets it, on any node.
    fn write(&self, message: &M, to: &mut BytesMut) -> Result<(), BoxError>;

    /// Returns the message with this form.
    ///
    /// # Errors
    ///
    /// An error drops the message on this node. It is logged and counted.
    fn read(&self, form: Bytes) -> Result<M, BoxError>;
}

/// Length from which [`Plain`] does not copy a message. A shorter one would keep the whole read
/// buffer of the bus in memory while it waits for a slow member.
const NO_COPY: usize = 4096;

/// The bytes of a message as they are: for `String`, `Arc<str>`, `Bytes` and `Vec<u8>`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plain;

macro_rules! plain_text {
    ($($type:ty),*) => {
        $(
            impl Form<$type> for Plain {
                fn write(&self, message: &$type, to: &mut BytesMut) -> Result<(), BoxError> {
                    to.put_slice(message.as_bytes());
                    Ok(())
                }

                fn read(&self, form: Bytes) -> Result<$type, BoxError> {
                    Ok(str::from_utf8(&form)?.into())
                }
            }
        )*
    };
}

plain_text!(String, Arc<str>, Box<str>);

impl Form<Bytes> for Plain {
    fn write(&self, message: &Bytes, to: &mut BytesMut) -> Result<(), BoxError> {
        to.put_slice(message);
        Ok(())
    }

    fn read(&self, form: Bytes) -> Result<Bytes, BoxError> {
        if form.len() < NO_COPY {
            return Ok(Bytes::copy_from_slice(&form));
        }
        Ok(form)
    }
}

impl Form<Vec<u8>> for Plain {
    fn write(&self, message: &Vec<u8>, to: &mut BytesMut) -> Result<(), BoxError> {
        to.put_slice(message);
        Ok(())
    }

    fn read(&self, form: Bytes) -> Result<Vec<u8>, BoxError> {
        Ok(form.into())
    }
}

/// Messages as JSON.
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json;

#[cfg(feature = "json")]
impl<M: serde::Serialize + serde::de::DeserializeOwned> Form<M> for Json {
    fn write(&self, message: &M, to: &mut BytesMut) -> Result<(), BoxError> {
        Ok(serde_json::to_writer(to.writer(), message)?)
    }

    fn read(&self, form: Bytes) -> Result<M, BoxError> {
        Ok(serde_json::from_slice(&form)?)
    }
}

/// Form from two functions; see [`from_fns`].
pub struct FromFns<M, W, R> {
    write: W,
    read: R,
    message: PhantomData<fn(M) -> M>,
}

/// Creates a form from a function that writes a message and one that reads it.
pub fn from_fns<M, W, R>(write: W, read: R) -> FromFns<M, W, R>
where
    M: 'static,
    W: Fn(&M, &mut BytesMut) -> Result<(), BoxError> + Send + Sync + 'static,
    R: Fn(Bytes) -> Result<M, BoxError> + Send + Sync + 'static,
{
    FromFns {
        write,
        read,
        message: PhantomData,
    }
}

impl<M, W, R> Form<M> for FromFns<M, W, R>
where
    M: 'static,
    W: Fn(&M, &mut BytesMut) -> Result<(), BoxError> + Send + Sync + 'static,
    R: Fn(Bytes) -> Result<M, BoxError> + Send + Sync + 'static,
{
    fn write(&self, message: &M, to: &mut BytesMut) -> Result<(), BoxError> {
        (self.write)(message, to)
    }

    fn read(&self, form: Bytes) -> Result<M, BoxError> {
        (self.read)(form)
    }
}

impl<M, W, R> fmt::Debug for FromFns<M, W, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFns").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_message_does_not_keep_the_buffer_that_it_was_read_into() {
        for len in [0, 1, NO_COPY - 1, NO_COPY] {
            let mut buffer = BytesMut::zeroed(32 * 1024);
            let message: Bytes = Plain.read(buffer.split_to(len).freeze()).unwrap();
            assert_eq!(message, vec![0; len]);
            let is_alone = buffer.freeze().is_unique();
            assert_eq!(is_alone, len < NO_COPY, "{len}");
        }
    }
}
