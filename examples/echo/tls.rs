//! The certificate for `--tls` and `--wss`: read from files, or created at startup.

use std::path::PathBuf;

use getty::{
    BoxError,
    tls::{Pem, ServerTls, TlsConfig},
};

/// The files of `--cert` and `--key`.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl Files {
    /// Returns a server configuration with these files, or with a self-signed certificate if none
    /// are given.
    pub(crate) fn load(&self) -> Result<TlsConfig, BoxError> {
        let settings = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => ServerTls::new(cert, key),
            (None, None) => self_signed()?,
            _ => return Err("--cert and --key must be used together".into()),
        };
        Ok(settings.load()?)
    }
}

/// Creates a self-signed certificate for this machine. It is not stored. Clients must be
/// configured to trust it, or not to verify it.
fn self_signed() -> Result<ServerTls, BoxError> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let generated = rcgen::generate_simple_self_signed(names)?;
    eprintln!("no --cert and --key, using a self-signed certificate for localhost");
    Ok(ServerTls::new(
        Pem::inline(generated.cert.pem()),
        Pem::inline(generated.signing_key.serialize_pem()),
    ))
}
