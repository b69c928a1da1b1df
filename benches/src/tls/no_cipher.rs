//! A cipher suite that protects nothing, so that what is left of a record is what is done with it, the same on every
//! processor.

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

/// What a cipher would add to each record.
pub(super) const TAG: [u8; 16] = [0; 16];

/// As AES-128-GCM in all but the cipher.
pub(super) fn suite() -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(model) = TLS13_AES_128_GCM_SHA256 else {
        unreachable!("its name says so");
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
    // one for each run of a scenario, of which a process makes one
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
            // what every record of TLS 1.3 says it is
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
