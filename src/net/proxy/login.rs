//! Credentials for a proxy.

use std::fmt;

use super::error::ProxyConnectError;

/// User name and password. `Debug` shows neither.
pub(super) struct Login {
    user: String,
    password: String,
}

impl Login {
    pub(super) const fn new(user: String, password: String) -> Self {
        Self { user, password }
    }

    /// Checks that a SOCKS request can carry the login. An empty password is sent as it is
    /// because some servers have users without one.
    pub(super) fn check_socks5(&self) -> Result<(), ProxyConnectError> {
        let fits = |text: &str| u8::try_from(text.len()).is_ok();
        if self.user.is_empty() || !fits(&self.user) || !fits(&self.password) {
            return Err(ProxyConnectError::InvalidLogin(
                "SOCKS5 requires a user name of 1 to 255 bytes and a password of up to 255",
            ));
        }
        Ok(())
    }

    /// Checks that HTTP Basic can carry the login (RFC 7617, section 2).
    pub(super) fn check_basic(&self) -> Result<(), ProxyConnectError> {
        let mut both = self.user.chars().chain(self.password.chars());
        if both.any(char::is_control) {
            return Err(ProxyConnectError::InvalidLogin(
                "the login contains a control character",
            ));
        }
        if self.user.contains(':') {
            return Err(ProxyConnectError::InvalidLogin(
                "the user name contains a colon, which ends it in HTTP Basic",
            ));
        }
        Ok(())
    }

    /// Appends the request of SOCKS5's login (RFC 1929). [`check_socks5`](Self::check_socks5)
    /// ensures that the lengths fit.
    #[allow(clippy::cast_possible_truncation, reason = "checked before the dial")]
    pub(super) fn append_socks5(&self, request: &mut Vec<u8>) {
        request.push(1);
        for text in [&self.user, &self.password] {
            request.push(text.len() as u8);
            request.extend_from_slice(text.as_bytes());
        }
    }

    /// Appends the value of `Proxy-Authorization` for HTTP Basic.
    pub(super) fn append_basic(&self, request: &mut Vec<u8>) {
        request.extend_from_slice(b"Basic ");
        let text = format!("{}:{}", self.user, self.password);
        append_base64(text.as_bytes(), request);
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

/// Appends the Base64 text of `bytes` (RFC 4648, section 4).
fn append_base64(bytes: &[u8], text: &mut Vec<u8>) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for group in bytes.chunks(3) {
        let mut bits = 0;
        for n in 0..3 {
            bits = bits << 8 | usize::from(group.get(n).copied().unwrap_or(0));
        }
        for n in 0..4 {
            // A group of n bytes has n + 1 digits.
            text.push(if n <= group.len() {
                DIGITS[bits >> (18 - 6 * n) & 63]
            } else {
                b'='
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
            ("\u{fffd}\u{7ff}", "77+9378="),
            ("\u{ffff}??", "77+/Pz8="),
            ("\u{fffd}\u{7ff}\u{7f}", "77+9379/"),
        ] {
            let mut encoded = Vec::new();
            append_base64(bytes.as_bytes(), &mut encoded);
            assert_eq!(encoded, text.as_bytes(), "{bytes}");
        }
    }

    #[test]
    fn login_that_does_not_fit_the_protocol_is_an_error() {
        let login = |user: &str, password: &str| Login::new(user.to_owned(), password.to_owned());
        let long = "a".repeat(256);
        assert!(login("user", "").check_socks5().is_ok());
        assert!(login(&long[1..], &long[1..]).check_socks5().is_ok());
        for (user, password) in [("", "word"), (&*long, "word"), ("user", &*long)] {
            assert!(login(user, password).check_socks5().is_err());
        }
        assert!(login("", "pass:word").check_basic().is_ok());
        assert!(login(&long, &long).check_basic().is_ok());
        for (user, password) in [("us:er", "word"), ("user", "wo\r\nrd"), ("\0", "word")] {
            assert!(login(user, password).check_basic().is_err());
        }
    }
}
