//! Server configuration in use, which can be reloaded while sessions are open.

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use getty_core::sync::Mutex;
use tokio::{task::spawn_blocking, time::Instant};
use tokio_rustls::rustls::ServerConfig;

use super::{error::TlsConfigError, pem::Stamp, server::ServerTls};

/// Configuration of a server, for [`TlsLayer`](crate::tls::TlsLayer). [`ServerTls::load`]
/// returns it.
///
/// Clones share the configuration. After [`reload`](Self::reload) or
/// [`replace`](Self::replace), every new handshake uses the new one, and open sessions
/// continue. TLS sessions from before cannot be resumed with the new configuration. A peer that
/// is no longer trusted can therefore not use resumption to get in.
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
/// // For example on a signal, when new files are in place.
/// config.reload()?;
///
/// std::fs::write(&chain, "half a certif")?;
/// let error = config.reload().unwrap_err(); // The old configuration stays in use.
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
    /// Stamps of the files before the last attempt to load them. Locked during an attempt.
    stamps: Mutex<Vec<Option<Stamp>>>,
    /// Time of the last automatic check.
    checked: Mutex<Instant>,
}

impl ServerTls {
    /// Reads and checks the configuration. It blocks while it reads.
    ///
    /// # Errors
    ///
    /// Returns an error with the file and the reason if a file cannot be read or used, or if a
    /// certificate and a key do not belong together. Expired certificates are not detected; clients
    /// will refuse them.
    pub fn load(self) -> Result<TlsConfig, TlsConfigError> {
        TlsConfig::from_files(self)
    }
}

impl TlsConfig {
    fn from_files(settings: ServerTls) -> Result<Self, TlsConfigError> {
        // Before the files are read so that a change in between is detected later.
        let stamps = settings.stamps();
        Ok(Self(Arc::new(Shared {
            current: RwLock::new(settings.build()?),
            files: Some(Files {
                settings,
                stamps: Mutex::new(stamps),
                checked: Mutex::new(Instant::now()),
            }),
        })))
    }

    /// Loads the files again, changed or not. It blocks while it reads.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`ServerTls::load`]. The old configuration then stays in use, and a
    /// warning is logged. Returns [`TlsConfigError::NoFiles`] if the configuration was not loaded
    /// from files.
    pub fn reload(&self) -> Result<(), TlsConfigError> {
        self.load_if(|_| true).map(drop)
    }

    /// Loads the files again if one has changed since the last attempt. Returns `true` if they were
    /// loaded. Files that could not be used are not read again until another change. Files that
    /// could not be read are.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`reload`](Self::reload).
    pub fn reload_if_changed(&self) -> Result<bool, TlsConfigError> {
        self.load_if(|changed| changed)
    }

    /// Uses `config` from now on. If the old one was loaded from files, a later reload uses the
    /// files again.
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

    fn load_if(&self, condition: impl FnOnce(bool) -> bool) -> Result<bool, TlsConfigError> {
        let files = self.0.files.as_ref().ok_or(TlsConfigError::NoFiles)?;
        let mut last = files.stamps.lock();
        let stamps = files.settings.stamps();
        if !condition(stamps != *last) {
            return Ok(false);
        }
        let before = std::mem::replace(&mut *last, stamps);
        match files.settings.build() {
            Ok(config) => {
                self.replace(config);
                tracing::info!("TLS configuration reloaded");
                Ok(true)
            }
            Err(error) => {
                if matches!(error, TlsConfigError::Read { .. }) {
                    // The contents are still unknown, and the files may not change again.
                    *last = before;
                }
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "new TLS configuration cannot be used; the old one stays in use"
                );
                Err(error)
            }
        }
    }

    /// Returns the configuration for the next handshake, after a check of the files if one is due.
    // (design.md: Why does a connection check whether the certificate files have changed?)
    pub(in crate::tls) async fn current(&self) -> Arc<ServerConfig> {
        if self.is_check_due() {
            let config = self.clone();
            // A failure is logged, and the old configuration stays in use.
            let _ = spawn_blocking(move || config.reload_if_changed()).await;
        }
        let current = self.0.current.read();
        Arc::clone(&current.unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns `true` once per period so that one connection checks and the others continue.
    fn is_check_due(&self) -> bool {
        let Some((files, period)) = self.automatic() else {
            return false;
        };
        let mut checked = files.checked.lock();
        let is_due = checked.elapsed() >= period;
        if is_due {
            *checked = Instant::now();
        }
        is_due
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
