//! Upgrades of the transport in an open session: `StartTlsLayer` and [`UpgradeLayer`].
//!
//! A protocol such as SMTP, IMAP, LDAP or XMPP begins in plain text, and the peers agree to
//! continue over TLS. The session stays the same. It keeps its handler and codec, its `In` and
//! `Out`, its attributes, callbacks and statistics. Every clone of its
//! [`Session`](crate::Session) may be used as before. A protocol with other messages after the
//! upgrade must run the dialogue before the session.
//!
//! A handler requests the upgrade with its reply, in either role:
//!
//! - a server returns its go-ahead with [`Reply::and_upgrade`](crate::Reply::and_upgrade);
//! - a client returns `Reply::none().and_upgrade()` once the server's go-ahead has arrived.
//!
//! It works with [`handle`](crate::handle), [`Router`](crate::handler::Router) and every other
//! message stack. `StartTlsLayer` has an example with both roles.
//!
//! # Place in the stack
//!
//! The layer replaces the transport, so it must be outside `CodecLayer`, where `TlsLayer` would
//! be. Inside `CodecLayer` it does not compile. Neither does another layer for byte streams
//! between it and `CodecLayer`, such as `TlsLayer` or `WsLayer`: an [`Upgradable`] is a
//! [`Transport`](crate::Transport) and no byte stream. Without the layer, a reply that upgrades
//! closes the session as [`CloseReason::UpgradeFailed`].
//!
//! | property | of these layers |
//! |---|---|
//! | *ready* | polls the inner service or connector |
//! | *call* | wraps the transport, and calls the inner service |
//! | *drop* | drops the connection; during a handshake the handshake with its transport |
//! | *close* | before the handshake, as without the layer; during it, the connection is dropped at once; after it, as over the new transport |
//! | scope | the configuration is shared by all clones, the deadline applies to each upgrade |
//!
//! # Rules of an upgrade
//!
//! 1. Once the session has taken the reply, nothing is decoded until the upgrade is complete.
//! 2. Bytes of the peer that have arrived behind the request refuse the upgrade. So do messages
//!    that were decoded ahead, and other handlers in flight. The session closes as
//!    [`CloseReason::Decode`] with [`BytesBeforeUpgrade`], and the go-ahead is not sent.
//!    [`UpgradeLayer::carry`] hands undecoded bytes over instead.
//! 3. The reply and all messages that were queued before it leave through the old transport
//!    before the first byte of the handshake.
//! 4. Messages that are sent afterwards wait in the queue and leave through the new transport.
//!    A [`send`](crate::Session::send) resolves when its own message is flushed. No plain byte
//!    follows, even if the upgrade fails: queued messages then fail.
//! 5. A handshake has 10 s by default, counted from the flush of the reply, and closes the
//!    session as [`CloseReason::HandshakeTimeout`]. Any other failure closes it as
//!    [`CloseReason::UpgradeFailed`], with the `TlsError` or the error of the function as its
//!    source. There is no fallback to the old transport.
//! 6. Idle timeouts and missing responses to heartbeats wait during the handshake, because the
//!    session does not read. Heartbeats wait in the queue. The other deadlines of layers still
//!    apply. A close ends the handshake at once.
//! 7. After an upgrade to TLS, [`transport`](crate::ConnectionHandle::transport) returns `Tls`,
//!    and the `TlsInfo` is an attribute. [`upgraded`](crate::ConnectionHandle::upgraded)
//!    resolves.
//! 8. Both transports are byte streams.
//! 9. A session can be upgraded once. Handlers of a session that is upgraded must run one at a
//!    time: [`with_in_flight`](crate::SessionLayer::with_in_flight) above 1 fails with
//!    [`UpgradeError::SeveralHandlers`].
//! 10. A peer that has ended its direction before the upgrade refuses it.
//!
//! # Security
//!
//! Before the upgrade, an attacker on the path can read and change everything.
//!
//! - **Forget.** A server must forget all state from before TLS, such as the client's name and
//!   a recipient (RFC 3207, section 4.2). The state of the handler and attributes stay, so the
//!   handler must reset them. The example `smtp` does it.
//! - **Require TLS.** An attacker can remove the server's offer or refuse the client's request
//!   in the server's name (stripping). A client must end the session if TLS is refused. It must
//!   not send secrets before [`upgraded`](crate::ConnectionHandle::upgraded) has returned
//!   `true`. Only a name or port that implies TLS from the first byte, with `TlsLayer`, avoids
//!   the plain dialogue.
//! - **Injection.** Without rule 2, bytes from before the upgrade could be taken for bytes
//!   from after it, as in CVE-2021-23222 and CVE-2011-0411. The rule applies to servers and to
//!   clients. A client that sends its `ClientHello` before the go-ahead may be refused. Bytes
//!   that arrive later become part of the handshake, which then fails.
//! - **Codecs.** A codec must leave an incomplete message in its buffer. A codec that moves the
//!   head of a message into its own state could combine it with bytes from after the upgrade.
//!   Getty's codecs leave it. Complete messages and bytes behind them may be held, as
//!   [`Frames`](crate::codec::Frames) does. The session asks the codec for the next message before
//!   an upgrade. A message refuses the upgrade, and bytes that the codec puts back into the empty
//!   buffer count as undecoded.
//!
//! # Costs
//!
//! Each read and write of an [`Upgradable`] takes one more branch. A connection takes three
//! more words. Sessions without such a layer cost the same as before.
//!
//! [`CloseReason::Decode`]: crate::CloseReason::Decode
//! [`CloseReason::HandshakeTimeout`]: crate::CloseReason::HandshakeTimeout
//! [`CloseReason::UpgradeFailed`]: crate::CloseReason::UpgradeFailed

#[cfg(feature = "tls")]
mod connect;
mod error;
mod layer;
#[cfg(feature = "tls")]
mod start_tls;
mod upgradable;

#[cfg(test)]
pub(crate) use self::upgradable::Upgrade;
#[cfg(feature = "tls")]
pub use self::{
    connect::{StartTlsConnect, StartTlsConnectLayer, StartTlsConnecting},
    start_tls::{StartTlsLayer, StartTlsService},
};
pub use self::{
    error::{BytesBeforeUpgrade, UpgradeError},
    layer::{Carry, Refuse, UpgradeLayer, UpgradeService},
    upgradable::Upgradable,
};
