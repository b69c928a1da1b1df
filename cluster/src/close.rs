//! Close reasons between nodes.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use getty_core::{ApplicationClose, CloseReason};

const LOCAL: u8 = 0;
const SHUTDOWN: u8 = 1;
const TAKEN_OVER: u8 = 2;
const EXPIRED: u8 = 3;
const REFUSED: u8 = 4;
const IDLE: u8 = 5;
const PROTOCOL: u8 = 6;
const APPLICATION: u8 = 7;

/// Writes a reason. One that no program chooses, such as `Io`, is written as `Local`.
pub(crate) fn write(reason: &CloseReason, to: &mut BytesMut) {
    to.put_u8(match reason {
        CloseReason::Shutdown => SHUTDOWN,
        CloseReason::TakenOver => TAKEN_OVER,
        CloseReason::LifetimeExpired => EXPIRED,
        CloseReason::Refused => REFUSED,
        CloseReason::IdleTimeout => IDLE,
        CloseReason::Protocol { .. } => PROTOCOL,
        CloseReason::Application(_) => APPLICATION,
        _ => LOCAL,
    });
    match reason {
        CloseReason::Protocol { code, reason } => {
            to.put_u16(*code);
            to.put_slice(reason.as_bytes());
        }
        CloseReason::Application(close) => {
            to.put_u16(close.code());
            to.put_slice(close.name().as_bytes());
        }
        _ => {}
    }
}

/// Reads a reason. An application's reason is one of `known`, by its code. Without it, it is a
/// `Protocol` reason with the code that it has over WebSocket.
pub(crate) fn read(mut bytes: Bytes, known: &[ApplicationClose]) -> Option<CloseReason> {
    let kind = bytes.try_get_u8().ok()?;
    Some(match kind {
        LOCAL => CloseReason::Local,
        SHUTDOWN => CloseReason::Shutdown,
        TAKEN_OVER => CloseReason::TakenOver,
        EXPIRED => CloseReason::LifetimeExpired,
        REFUSED => CloseReason::Refused,
        IDLE => CloseReason::IdleTimeout,
        PROTOCOL | APPLICATION => {
            let code = bytes.try_get_u16().ok()?;
            let known = known.iter().find(|close| close.code() == code);
            if let (APPLICATION, Some(close)) = (kind, known) {
                return Some((*close).into());
            }
            let text = String::from_utf8(bytes.to_vec()).ok()?;
            let code = if kind == APPLICATION {
                code.saturating_add(4000)
            } else {
                code
            };
            CloseReason::Protocol {
                code,
                reason: text.into(),
            }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KICKED: ApplicationClose = ApplicationClose::new(17, "kicked");

    fn round_trip(reason: &CloseReason, known: &[ApplicationClose]) -> Option<CloseReason> {
        let mut bytes = BytesMut::new();
        write(reason, &mut bytes);
        read(bytes.freeze(), known)
    }

    #[test]
    fn reason_is_the_same_on_the_other_node() {
        for reason in [
            CloseReason::Local,
            CloseReason::Shutdown,
            CloseReason::TakenOver,
            CloseReason::LifetimeExpired,
            CloseReason::Refused,
            CloseReason::IdleTimeout,
            CloseReason::Protocol {
                code: 4001,
                reason: "no such room".into(),
            },
            KICKED.into(),
        ] {
            assert_eq!(round_trip(&reason, &[KICKED]), Some(reason));
        }
    }

    #[test]
    fn unknown_reason_of_an_application_keeps_its_code_and_name() {
        let protocol = CloseReason::Protocol {
            code: 4017,
            reason: "kicked".into(),
        };
        assert_eq!(round_trip(&KICKED.into(), &[]), Some(protocol));
        assert_eq!(round_trip(&CloseReason::Io, &[]), Some(CloseReason::Local));
        assert_eq!(read(Bytes::new(), &[]), None);
        assert_eq!(read(Bytes::from_static(&[99]), &[]), None);
        assert_eq!(read(Bytes::from_static(&[PROTOCOL, 0]), &[]), None);
    }
}
