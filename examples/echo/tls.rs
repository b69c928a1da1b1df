//! The certificate of `--tls`: from files, or made on the fly.

use std::path::PathBuf;

use getty::{
    BoxError,
    tls::{Pem, ServerTls, TlsConfig},
};

/// What `--cert` and `--key` say.
#[derive(Default)]
pub(crate) struct Files {
    pub(crate) cert: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

impl Files {
    /// The configuration of a server with these files, or without any with a certificate of its own making.
    pub(crate) fn load(&self) -> Result<TlsConfig, BoxError> {
        let settings = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => ServerTls::new(cert, key),
            (None, None) => self_signed()?,
            _ => return Err("--cert and --key go together".into()),
        };
        Ok(settings.load()?)
    }
}

/// For this machine and for as long as we run: nobody trusts it who has not been told to.
fn self_signed() -> Result<ServerTls, BoxError> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let made = rcgen::generate_simple_self_signed(names)?;
    eprintln!("echo: without --cert and --key, a self-signed certificate for localhost");
    Ok(ServerTls::new(
        Pem::inline(made.cert.pem()),
        Pem::inline(made.signing_key.serialize_pem()),
    ))
}
