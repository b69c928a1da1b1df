//! Buses by their URL.

use std::{error::Error, fmt, sync::Arc};

use tower::BoxError;

use super::{Bus, Memory, Sharded};

/// Creates the bus at a URL, such as a setting of the program.
///
/// | URL | bus | feature |
/// |---|---|---|
/// | `memory:` | a new [`Memory`]: a cluster of one node | |
/// | `nats://host:4222`, `tls://host:4222` | `Nats` | `nats` |
/// | `redis://host:6379`, `rediss://host:6379` | `Redis` | `redis` |
///
/// Several URLs of NATS are separated by commas. They are servers of one cluster of NATS.
/// Several buses are separated by `|`, as in `redis://a|redis://b`: they are the shards of a
/// [`Sharded`] bus, in this order. `valkey` and `valkeys` mean the same as `redis` and `rediss`.
///
/// ```
/// use getty_cluster::{Cluster, bus};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), bus::UrlError> {
/// let url = std::env::var("BUS").unwrap_or("memory:".to_owned());
/// let cluster = Cluster::of("chat").over(bus::from_url(&url)?).start();
/// cluster.up().await;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// The URL is invalid, or its bus is not a feature of this program. The error does not contain
/// the URL, which may have a password.
pub fn from_url(url: &str) -> Result<Box<dyn Bus>, UrlError> {
    if url.contains('|') {
        let shards: Result<Vec<_>, _> = url.split('|').map(|url| from_url(url.trim())).collect();
        return Ok(Box::new(Sharded::new(shards?)));
    }
    if url.starts_with("memory:") {
        return Ok(Box::new(Memory::new()));
    }
    match url.split_once("://").map(|(scheme, _)| scheme) {
        #[cfg(feature = "nats")]
        Some("nats" | "tls") => Ok(Box::new(super::Nats::new(url)?)),
        #[cfg(not(feature = "nats"))]
        Some("nats" | "tls") => Err(UrlError::Feature("nats")),
        #[cfg(feature = "redis")]
        Some("redis" | "rediss" | "valkey" | "valkeys") => Ok(Box::new(super::Redis::new(url)?)),
        #[cfg(not(feature = "redis"))]
        Some("redis" | "rediss" | "valkey" | "valkeys") => Err(UrlError::Feature("redis")),
        _ => Err(UrlError::Scheme),
    }
}

/// Error of the URL of a bus. It does not contain the URL, which may have a password.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum UrlError {
    /// The URL does not begin with the scheme of a bus.
    Scheme,
    /// The bus belongs to this feature of the crate, which is not enabled.
    Feature(&'static str),
    /// The rest of the URL, or a certificate, is invalid.
    Invalid(Arc<dyn Error + Send + Sync>),
}

impl UrlError {
    #[cfg_attr(
        not(any(feature = "nats", feature = "redis")),
        expect(dead_code, reason = "the buses with a server use it")
    )]
    pub(super) fn invalid(cause: impl Into<BoxError>) -> Self {
        Self::Invalid(Arc::from(cause.into()))
    }
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scheme => f.write_str(
                "the URL of the bus does not begin with memory:, nats:, tls:, redis: or rediss:",
            ),
            Self::Feature(feature) => {
                write!(f, "the bus needs the feature `{feature}` of getty-cluster")
            }
            Self::Invalid(_) => f.write_str("the URL of the bus is invalid"),
        }
    }
}

impl Error for UrlError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Invalid(cause) => Some(&**cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scheme_chooses_the_bus() {
        let kind = |url| from_url(url).map(|bus| bus.kind());
        assert_eq!(kind("memory:").unwrap(), "memory");
        for url in [
            "",
            "nats",
            "nats:",
            "redis:",
            "http://a",
            "NATS://a",
            "://a",
            "redis+sentinel://a:26379/primary",
            "redis-cluster://a",
        ] {
            assert!(matches!(kind(url), Err(UrlError::Scheme)), "{url}");
        }
    }

    #[test]
    fn several_buses_are_shards() {
        let shards = |url| from_url(url).map(|bus| bus.shards().len());
        assert_eq!(shards("memory:").unwrap(), 0);
        assert_eq!(shards("memory: | memory: |memory:").unwrap(), 3);
        for url in [
            "|",
            "memory:|",
            "|memory:",
            "memory:||memory:",
            "memory:|ftp://a",
        ] {
            assert!(matches!(shards(url), Err(UrlError::Scheme)), "{url}");
        }
    }

    #[cfg(all(feature = "nats", feature = "redis"))]
    #[test]
    fn urls_of_servers_are_checked_and_no_error_shows_a_password() {
        let kind = |url| from_url(url).map(|bus| bus.kind());
        for url in [
            "nats://a",
            "tls://ada:secret@a:4222",
            "nats://a, nats://b:4223",
        ] {
            assert_eq!(kind(url).unwrap(), "nats", "{url}");
        }
        for url in [
            "redis://a",
            "rediss://ada:secret@a:6380",
            "valkey://a",
            "valkeys://a",
        ] {
            assert_eq!(kind(url).unwrap(), "redis", "{url}");
        }
        for url in [
            "nats://ada:secret@a:port",
            "nats://a,ftp://ada:secret@b",
            "redis://ada:secret@a:port",
            "redis://ada:secret@a/db",
            "redis://ada:secret@a,b",
            "redis://ada:secret@a:6379,b:6379",
            "redis://",
            "nats://",
        ] {
            let error = kind(url).unwrap_err();
            assert!(matches!(error, UrlError::Invalid(_)), "{url}");
            let cause = error.source().unwrap().to_string();
            assert!(
                !format!("{error} {error:?} {cause}").contains("secret"),
                "{cause}"
            );
        }
    }

    #[cfg(not(feature = "nats"))]
    #[test]
    fn bus_that_is_not_built_is_named() {
        let error = from_url("nats://a").err().unwrap();
        assert!(error.to_string().contains("`nats`"), "{error}");
    }
}
