//! The peer of a session: what it sends and receives, in the framing of each transport.

use getty_test::Peer;

use super::MAX;
use crate::{codec::Lines, ws};

/// Transport of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Lines on a byte stream.
    Stream,
    Messages,
    Datagrams,
    /// Frames on a byte stream.
    WebSocket,
}

/// Peer with all that it can send.
pub(super) struct Line {
    pub(super) peer: Peer,
    kind: Kind,
    /// Input of a byte stream.
    bytes: Vec<u8>,
    /// Input of a transport that keeps boundaries.
    units: Vec<Unit>,
    /// End of each unit in the bytes.
    ends: Vec<usize>,
    /// Number of bytes, or of units, that were sent.
    sent: usize,
}

#[derive(Clone, Debug)]
enum Unit {
    Message(Vec<u8>),
    /// Messages that are lost on the way.
    Lost(u32),
    /// Data of the protocol: a ping or a pong.
    Control(Vec<u8>),
}

impl Unit {
    /// Makes a unit of one line of the input.
    fn new(kind: Kind, line: &[u8]) -> Self {
        match line.first() {
            Some(b'!') if kind == Kind::Datagrams => {
                Self::Lost(u32::try_from(line.len()).expect("lines are short"))
            }
            Some(b'#') if kind != Kind::Datagrams => {
                Self::Control(line[..line.len().min(125)].to_vec())
            }
            _ => Self::Message(line.to_vec()),
        }
    }

    /// Returns the unit as frames of a client. Some messages have fragments.
    fn frames(&self) -> Vec<u8> {
        match self {
            Self::Message(text) if text.first() == Some(&b'y') => {
                let (one, two) = text.split_at(text.len() / 2);
                let mut frames = ws::frame(ws::TEXT, one);
                frames.extend(ws::frame(ws::FIN | ws::PONG, b"between"));
                frames.extend(ws::frame(0, b""));
                frames.extend(ws::frame(ws::FIN, two));
                frames
            }
            Self::Message(text) => ws::frame(ws::FIN | ws::TEXT, text),
            Self::Control(payload) => ws::frame(ws::FIN | ws::PING, payload),
            Self::Lost(_) => Vec::new(),
        }
    }
}

/// Part of the input that was sent, as the session must see it.
#[derive(Debug, Default)]
pub(super) struct Sent {
    /// Requests in order, up to the first message that ends the session.
    pub(super) requests: Vec<String>,
    /// A message cannot be decoded and ends the session.
    pub(super) is_bad: bool,
    /// A message that was not sent to its end cannot be decoded.
    pub(super) may_be_bad: bool,
    /// Messages that are lost, or that cannot be decoded and are skipped.
    pub(super) skipped: u64,
    /// Number of bytes, unless the transport adds some.
    pub(super) bytes: Option<u64>,
}

impl Line {
    pub(super) fn new(peer: Peer, kind: Kind, input: &[u8]) -> Self {
        let mut line = Self {
            peer,
            kind,
            bytes: Vec::new(),
            units: Vec::new(),
            ends: Vec::new(),
            sent: 0,
        };
        if kind == Kind::Stream {
            line.bytes = input.to_vec();
            return line;
        }
        let lines = input.strip_suffix(b"\n").unwrap_or(input);
        if !input.is_empty() {
            let units = lines.split(|byte| *byte == b'\n');
            line.units = units.map(|part| Unit::new(kind, part)).collect();
        }
        if kind == Kind::WebSocket {
            for unit in &line.units {
                line.bytes.extend(unit.frames());
                line.ends.push(line.bytes.len());
            }
        }
        line
    }

    pub(super) fn is_web_socket(&self) -> bool {
        self.kind == Kind::WebSocket
    }

    /// Returns `true` if the session can end its direction alone.
    pub(super) fn ends_one_direction(&self) -> bool {
        self.kind == Kind::Stream
    }

    /// Sends up to `n` bytes of a stream, or some messages.
    pub(super) fn send(&mut self, n: usize) {
        match self.kind {
            Kind::Stream | Kind::WebSocket => {
                let end = self.sent + n.min(self.bytes.len() - self.sent);
                self.peer.send(&self.bytes[self.sent..end]);
                self.sent = end;
            }
            Kind::Messages | Kind::Datagrams => {
                for unit in self.units.iter().skip(self.sent).take(1 + n % 4) {
                    match unit {
                        Unit::Message(message) => self.peer.send(message),
                        Unit::Lost(messages) => self.peer.lose(*messages),
                        Unit::Control(bytes) => self.peer.send_control(bytes.len()),
                    }
                    self.sent += 1;
                }
            }
        }
    }

    /// Ends the peer's direction as its protocol requires. The session has sent all that it
    /// can.
    pub(super) fn end(&mut self) {
        if self.kind == Kind::WebSocket {
            self.complete();
            let close = ws::frame(ws::FIN | ws::CLOSE, &1000_u16.to_be_bytes());
            self.peer.send(close);
        }
        self.peer.finish();
    }

    /// Sends the rest of a unit that was begun.
    pub(super) fn complete(&mut self) {
        if self.kind == Kind::WebSocket && self.sent > 0 {
            let end = self.ends.iter().find(|end| **end >= self.sent);
            let rest = end.map_or(0, |end| end - self.sent);
            self.send(rest);
        }
    }

    pub(super) fn sent(&self) -> Sent {
        match self.kind {
            Kind::Stream => self.sent_lines(),
            Kind::Messages | Kind::Datagrams => self.sent_units(self.sent),
            Kind::WebSocket => {
                let whole = self.ends.iter().filter(|end| **end <= self.sent).count();
                let mut sent = self.sent_units(whole);
                sent.bytes = None;
                // a text is checked before its end
                if let Some(Unit::Message(text)) = self.units.get(whole) {
                    sent.may_be_bad = str::from_utf8(text).is_err();
                }
                sent
            }
        }
    }

    fn sent_lines(&self) -> Sent {
        let model = Lines {
            max: MAX,
            crlf: false,
            final_newline: false,
        };
        let model = model.model(&self.bytes[..self.sent]);
        let bad = model.items.iter().position(Result::is_err);
        let lines = &model.items[..bad.unwrap_or(model.items.len())];
        let text = |line: &Vec<u8>| String::from_utf8(line.clone()).expect("text");
        Sent {
            requests: lines.iter().flatten().map(text).collect(),
            is_bad: bad.is_some(),
            may_be_bad: false,
            skipped: 0,
            bytes: Some(self.sent as u64),
        }
    }

    fn sent_units(&self, units: usize) -> Sent {
        let mut sent = Sent::default();
        let mut bytes = 0;
        for unit in &self.units[..units] {
            match unit {
                Unit::Message(message) => {
                    bytes += message.len();
                    match str::from_utf8(message) {
                        Ok(text) => sent.requests.push(text.to_owned()),
                        Err(_) if self.kind == Kind::Datagrams => sent.skipped += 1,
                        Err(_) => {
                            sent.is_bad = true;
                            break;
                        }
                    }
                }
                Unit::Lost(messages) => sent.skipped += u64::from(*messages),
                Unit::Control(payload) => bytes += payload.len(),
            }
        }
        sent.bytes = Some(bytes as u64);
        sent
    }

    /// Returns the messages that the peer has received, and the rest of a message.
    pub(super) fn received(&self) -> (Vec<String>, Vec<u8>) {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text is sent");
        match self.kind {
            Kind::Stream => {
                let output = self.peer.output_bytes();
                let end = output.iter().rposition(|byte| *byte == b'\n');
                let (whole, part) = output.split_at(end.map_or(0, |end| end + 1));
                let lines = text(whole.to_vec());
                let lines = lines.split_terminator('\n').map(str::to_owned);
                (lines.collect(), part.to_vec())
            }
            Kind::Messages | Kind::Datagrams => {
                let messages = std::iter::from_fn(|| self.peer.try_recv());
                (
                    messages.map(|bytes| text(bytes.into())).collect(),
                    Vec::new(),
                )
            }
            Kind::WebSocket => {
                let output = self.peer.output_bytes();
                let (frames, part) = ws::whole_frames(ws::behind_head(&output), false);
                let texts = frames
                    .into_iter()
                    .filter_map(|(first, payload)| match first {
                        first if first == ws::FIN | ws::TEXT => Some(text(payload)),
                        first if first == ws::FIN | ws::PONG => None,
                        first if first == ws::FIN | ws::CLOSE => None,
                        other => panic!("an unexpected frame {other:#x}"),
                    });
                (texts.collect(), part.to_vec())
            }
        }
    }
}
