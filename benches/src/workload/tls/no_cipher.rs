//! A cipher suite without encryption. The cost of handling records remains. It is the same on
//! every processor.

use tokio_rustls::rustls::{
    ConnectionTrafficSecrets, ContentType, Error, ProtocolVersion, SupportedCipherSuite,
    Tls13CipherSuite,
    crypto::{
        CipherSuiteCommon,
        cipher::{
            AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter,
            MessageEncrypter, OutboundOpaqueMessage, OutboundPlainMessage, PrefixedPayload,
            Tls13AeadAlgorithm, UnsupportedOperationError,
        },
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
    },
};

/// Placeholder for the authentication tag of each record.
pub(super) const TAG: [u8; 16] = [0; 16];

/// Returns a suite that equals AES-128-GCM except for the cipher.
pub(super) fn suite() -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(model) = TLS13_AES_128_GCM_SHA256 else {
        unreachable!("the suite is of TLS 1.3");
    };
    let suite = Tls13CipherSuite {
        common: CipherSuiteCommon {
            confidentiality_limit: u64::MAX,
            ..model.common
        },
        hkdf_provider: model.hkdf_provider,
        aead_alg: &NoCipher,
        quic: None,
    };
    // Leaks one suite for each run of a scenario. A process runs one scenario.
    SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
}

#[derive(Debug)]
struct NoCipher;

impl Tls13AeadAlgorithm for NoCipher {
    fn encrypter(&self, _: AeadKey, _: Iv) -> Box<dyn MessageEncrypter> {
        Box::new(Self)
    }

    fn decrypter(&self, _: AeadKey, _: Iv) -> Box<dyn MessageDecrypter> {
        Box::new(Self)
    }

    fn key_len(&self) -> usize {
        16
    }

    fn extract_keys(
        &self,
        _: AeadKey,
        _: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        Err(UnsupportedOperationError)
    }
}

impl MessageEncrypter for NoCipher {
    fn encrypt(
        &mut self,
        message: OutboundPlainMessage<'_>,
        _: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let length = self.encrypted_payload_len(message.payload.len());
        let mut payload = PrefixedPayload::with_capacity(length);
        payload.extend_from_chunks(&message.payload);
        payload.extend_from_slice(&[u8::from(message.typ)]);
        payload.extend_from_slice(&TAG);
        Ok(OutboundOpaqueMessage::new(
            ContentType::ApplicationData,
            // Every record of TLS 1.3 contains this version.
            ProtocolVersion::TLSv1_2,
            payload,
        ))
    }

    fn encrypted_payload_len(&self, payload: usize) -> usize {
        payload + 1 + TAG.len()
    }
}

impl MessageDecrypter for NoCipher {
    fn decrypt<'a>(
        &mut self,
        mut message: InboundOpaqueMessage<'a>,
        _: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let plain = message.payload.len().checked_sub(TAG.len());
        message.payload.truncate(plain.ok_or(Error::DecryptError)?);
        message.into_tls13_unpadded_message()
    }
}
