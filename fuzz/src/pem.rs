//! PEM of certificates and keys.

use getty::tls::{ClientTls, Pem, ServerTls};

use crate::{
    edge::{CHAIN, KEY},
    kit::Input,
};

/// Files of PEM: a chain and a key. Neither panics, line ends do not matter, and no error shows
/// a part of a key.
pub(crate) fn pem(data: &[u8]) {
    let mut input = Input::new(data);
    let is_key = input.byte() & 1 != 0;
    let text = input.rest();
    let load = |text: Vec<u8>| {
        let (chain, key) = if is_key {
            (Pem::inline(CHAIN), Pem::inline(text.clone()))
        } else {
            (Pem::inline(text.clone()), Pem::inline(KEY))
        };
        let server = ServerTls::new(chain, key).load();
        let roots = ClientTls::new().with_roots(Pem::inline(text)).load();
        let server = server
            .map(drop)
            .map_err(|error| format!("{error:?} {error}"));
        let roots = roots
            .map(drop)
            .map_err(|error| format!("{error:?} {error}"));
        (server, roots)
    };
    let ours = load(text.to_vec());
    // The last whole line of base64 with at least 16 characters must not be in an error.
    if is_key {
        let errors = [&ours.0, &ours.1].map(|result| result.clone().err().unwrap_or_default());
        let lines = text
            .split(|byte| *byte == b'\n')
            .filter(|line| line.len() >= 16);
        let secret = |line: &&[u8]| {
            line.iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(byte))
        };
        for line in lines.filter(secret) {
            let line = str::from_utf8(&line[..16]).expect("ASCII");
            assert!(
                errors.iter().all(|error| !error.contains(line)),
                "{errors:?}"
            );
        }
    }
    // A file from Windows is the same file.
    if !text.contains(&b'\r') {
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        let windows = load(lines.join(&b"\r\n"[..]));
        let kind = |result: &Result<(), String>| {
            let kind = |error: &String| error.split([' ', '(', '{']).next().map(str::to_owned);
            result.as_ref().map_err(kind).copied()
        };
        assert_eq!(kind(&windows.0), kind(&ours.0), "{windows:?}, {ours:?}");
        assert_eq!(kind(&windows.1), kind(&ours.1), "{windows:?}, {ours:?}");
    }
    if text == if is_key { KEY } else { CHAIN }.as_bytes() {
        assert_eq!(ours.0, Ok(()));
    }
}
