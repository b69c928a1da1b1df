//! Errors of a configuration. They must contain the name of the file.

use std::{error::Error, fs};

use getty::tls::{ClientTls, Pem, ServerTls, TlsConfigError};

use super::{
    super::report,
    kit::{Authority, Directory, NAME},
};

/// Returns the error of loading files with `chain` and `key`.
fn failure(chain: &str, key: &str) -> (TlsConfigError, Directory) {
    let directory = Directory::new();
    fs::write(directory.chain(), chain).unwrap();
    fs::write(directory.key(), key).unwrap();
    let settings = ServerTls::new(directory.chain(), directory.key());
    (settings.load().unwrap_err(), directory)
}

/// Returns `true` if the error's text contains the name of the file.
fn names(error: &TlsConfigError, file: &str) -> bool {
    error.to_string().contains(file)
}

#[test]
fn missing_file_is_named_in_the_error() {
    let directory = Directory::new();
    let error = ServerTls::new(directory.chain(), directory.key())
        .load()
        .unwrap_err();
    assert!(matches!(error, TlsConfigError::Read { .. }));
    assert!(
        names(&error, &directory.chain().display().to_string()),
        "{error}"
    );
    assert!(report(&error).contains("No such file"));

    let missing = ClientTls::new().with_roots(directory.path().join("roots.pem"));
    assert!(names(&missing.load().unwrap_err(), "roots.pem"));
}

#[test]
fn key_of_another_certificate_is_detected_on_load() {
    let authority = Authority::new();
    let (one, other) = (authority.issue(NAME), authority.issue(NAME));
    let (error, _directory) = failure(&one.chain, &other.key);
    assert!(matches!(error, TlsConfigError::WrongKey { .. }));
    assert!(
        names(&error, "key.pem") && names(&error, "chain.pem"),
        "{error}"
    );

    let client = ClientTls::new()
        .with_roots(authority.root())
        .with_certificate(one.chain(), other.key());
    assert!(matches!(
        client.load(),
        Err(TlsConfigError::WrongKey { .. })
    ));
}

#[test]
fn encrypted_key_is_refused_with_the_name_of_its_file() {
    let issued = Authority::new().issue(NAME);
    let pkcs8 = issued.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let openssl = "-----BEGIN RSA PRIVATE KEY-----\r\nProc-Type: 4,ENCRYPTED\r\nDEK-Info: AES-256-CBC,00\r\n\r\nAAAA\r\n-----END RSA PRIVATE KEY-----\r\n";
    for key in [&*pkcs8, openssl] {
        let (error, _directory) = failure(&issued.chain, key);
        assert!(
            matches!(error, TlsConfigError::EncryptedKey { .. }),
            "{error:?}"
        );
        assert!(names(&error, "key.pem"), "{error}");
    }
}

#[test]
fn missing_certificate_and_missing_key_are_different_errors() {
    let issued = Authority::new().issue(NAME);
    let (error, _directory) = failure(&issued.key, &issued.key);
    assert!(matches!(error, TlsConfigError::NoCertificate { .. }));
    let (error, _directory) = failure(&issued.chain, &issued.chain);
    assert!(matches!(error, TlsConfigError::NoKey { .. }));
    let (error, _directory) = failure("", "");
    assert!(matches!(error, TlsConfigError::NoCertificate { .. }));
    let (error, _directory) = failure(&issued.chain[..200], &issued.key);
    assert!(matches!(error, TlsConfigError::Malformed { .. }));
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let (error, _directory) = failure(garbage, &issued.key);
    assert!(
        matches!(error, TlsConfigError::BadCertificate { .. }),
        "{error:?}"
    );
    let garbage = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let (error, _directory) = failure(&issued.chain, garbage);
    assert!(matches!(error, TlsConfigError::BadKey { .. }), "{error:?}");
    for error in [
        TlsConfigError::NoFiles,
        failure(&issued.chain, garbage).0,
        failure(&issued.chain[..200], &issued.key).0,
    ] {
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(!error.to_string().contains(&source) || source.is_empty());
    }
}

#[test]
fn chain_and_key_may_share_a_file() {
    let issued = Authority::new().issue(NAME);
    let both = Pem::inline(format!("{}{}", issued.key, issued.chain));
    ServerTls::new(both.clone(), both).load().unwrap();
}

#[test]
fn certificate_is_accepted_only_for_names_that_it_is_valid_for() {
    let authority = Authority::new();
    let (main, api) = (authority.issue(NAME), authority.issue("api.server.test"));
    let settings = ServerTls::new(main.chain(), main.key());
    let with = |name: &str| {
        let settings = settings.clone();
        settings
            .with_certificate_for(name, api.chain(), api.key())
            .load()
    };
    with("api.server.test").unwrap();
    let error = with("www.server.test").unwrap_err();
    assert!(
        matches!(&error, TlsConfigError::WrongName { name, .. } if &**name == "www.server.test")
    );
    assert!(matches!(
        with("*.server.test"),
        Err(TlsConfigError::WrongName { .. })
    ));
    for name in ["", "no name", "127.0.0.1"] {
        assert!(
            matches!(with(name), Err(TlsConfigError::BadName { .. })),
            "{name}"
        );
    }
}

#[test]
fn debug_output_contains_no_keys() {
    let issued = Authority::new().issue(NAME);
    let settings = ServerTls::new(issued.chain(), issued.key());
    let secret = issued.key.lines().nth(1).unwrap();
    for text in [
        format!("{settings:?}"),
        format!("{:?}", settings.load().unwrap()),
    ] {
        assert!(!text.contains(secret) && text.contains("inline"), "{text}");
    }
}
