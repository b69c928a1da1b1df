//! A server's configuration in use, which can be exchanged under live sessions.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::Instant};
use tokio_rustls::rustls::ServerConfig;

use super::{ServerTls, TlsConfigError, pem::Stamp};

/// A server's configuration: what [`ServerTls::load`] makes and [`TlsLayer`](crate::tls::TlsLayer) uses.
///
/// Clones share it. Exchanged by [`reload`](Self::reload) or [`replace`](Self::replace), it is the new one for every
/// handshake that begins from then on; sessions that are there go on as they are. Sessions of before cannot be resumed
/// with a new configuration, so that what it no longer trusts does not get in that way.
///
/// ```
/// # use getty::tls::{Pem, ServerTls, TlsConfigError};
/// # fn main() -> Result<(), getty::BoxError> {
/// # let directory = tempfile::tempdir()?;
/// # let (chain, key) = (directory.path().join("chain.pem"), directory.path().join("key.pem"));
/// # let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// # std::fs::write(&chain, made.cert.pem())?;
/// # std::fs::write(&key, made.signing_key.serialize_pem())?;
/// let config = ServerTls::new(&chain, &key).load()?;
/// // on a signal, say, when new files are in place
/// config.reload()?;
///
/// std::fs::write(&chain, "half a certif")?;
/// let error = config.reload().unwrap_err(); // and the old one stays
/// assert!(matches!(error, TlsConfigError::NoCertificate { .. }));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct TlsConfig(Arc<Shared>);

struct Shared {
    current: RwLock<Arc<ServerConfig>>,
    files: Option<Files>,
}

struct Files {
    settings: ServerTls,
    /// What the files looked like before they were last loaded, or failed to be. Held while they are.
    stamps: Mutex<Vec<Option<Stamp>>>,
    /// Since when nobody has looked.
    looked: Mutex<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl TlsConfig {
    pub(super) fn from_files(settings: ServerTls) -> Result<Self, TlsConfigError> {
        // before they are read: what changes meanwhile is then seen as a change
        let stamps = settings.stamps();
        Ok(Self(Arc::new(Shared {
            current: RwLock::new(settings.build()?),
            files: Some(Files {
                settings,
                stamps: Mutex::new(stamps),
                looked: Mutex::new(Instant::now()),
            }),
        })))
    }

    /// Loads the files anew, whether they look changed or not. It blocks for as long as reading takes.
    ///
    /// # Errors
    ///
    /// As [`ServerTls::load`]; the old configuration stays in use then, and a warning is logged.
    /// [`TlsConfigError::NoFiles`] where it was not made from files.
    pub fn reload(&self) -> Result<(), TlsConfigError> {
        self.load_if(|_| true).map(drop)
    }

    /// Loads the files anew if one of them looks changed since they were last read, and says whether it did. What
    /// could not be used is not read again until it changes once more; what could not be read is.
    ///
    /// # Errors
    ///
    /// As [`reload`](Self::reload).
    pub fn reload_if_changed(&self) -> Result<bool, TlsConfigError> {
        self.load_if(|changed| changed)
    }

    /// Uses `config` from now on. Where it was made from files, a later reload takes them up again.
    pub fn replace(&self, config: impl Into<Arc<ServerConfig>>) {
        let config = config.into();
        let mut current = self
            .0
            .current
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, config);
        drop(current);
        drop(old);
    }

    fn load_if(&self, wanted: impl FnOnce(bool) -> bool) -> Result<bool, TlsConfigError> {
        let files = self.0.files.as_ref().ok_or(TlsConfigError::NoFiles)?;
        let mut last = lock(&files.stamps);
        let stamps = files.settings.stamps();
        if !wanted(stamps != *last) {
            return Ok(false);
        }
        let before = std::mem::replace(&mut *last, stamps);
        match files.settings.build() {
            Ok(config) => {
                self.replace(config);
                tracing::info!("the TLS configuration was loaded anew");
                Ok(true)
            }
            Err(error) => {
                if matches!(error, TlsConfigError::Read { .. }) {
                    // what is in the files is not known yet, and they may not change again
                    *last = before;
                }
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the new TLS configuration cannot be used; the old one stays"
                );
                Err(error)
            }
        }
    }

    /// What the next handshake uses. Where it is time to look at the files, that comes first.
    pub(in crate::tls) async fn current(&self) -> Arc<ServerConfig> {
        if self.is_time_to_look() {
            let config = self.clone();
            // its failure is logged, and leaves the old one
            let _ = spawn_blocking(move || config.reload_if_changed()).await;
        }
        let current = self.0.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the period is over; it begins anew then, so that one connection looks and others go on.
    fn is_time_to_look(&self) -> bool {
        let Some((files, period)) = self.automatic() else {
            return false;
        };
        let mut looked = lock(&files.looked);
        let is_time = looked.elapsed() >= period;
        if is_time {
            *looked = Instant::now();
        }
        is_time
    }

    fn automatic(&self) -> Option<(&Files, Duration)> {
        let files = self.0.files.as_ref()?;
        Some((files, files.settings.automatic_reload?))
    }
}

impl From<Arc<ServerConfig>> for TlsConfig {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self(Arc::new(Shared {
            current: RwLock::new(config),
            files: None,
        }))
    }
}

impl From<ServerConfig> for TlsConfig {
    fn from(config: ServerConfig) -> Self {
        Arc::new(config).into()
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConfig")
            .field("files", &self.0.files.as_ref().map(|files| &files.settings))
            .finish_non_exhaustive()
    }
}
