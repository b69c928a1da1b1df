//! Typed messages: each format in each kind of frames, through sessions over TCP.

mod support;

use std::{collections::HashMap, error::Error};

use getty::{
    BoxError, CloseReason, CodecLayer, Pipeline, Reply, ServiceBuilder, SessionLayer,
    codec::{
        Binary, Bytes, Frames as FramesCodec, Json, LengthDelimited, LengthDelimitedError, Lines,
        LinesError, Malformed, MessagePack, Packets, Postcard, Prost, Text, VarintDelimited,
        VarintDelimitedError, format::FormatError,
    },
    handle,
    handler::{self, Packet, Router, Tagged},
    layers::{HandleErrorLayer, HandleMalformedLayer},
    ws::{Messages, WsLayer},
};
use prost::Message;
use tokio::net::TcpStream;

use self::support::{Frames, Note, Server, note, strict_notes, tolerant_notes};

/// A format as another program writes and reads it.
struct Foreign {
    write: fn(&Note) -> Vec<u8>,
    read: fn(&[u8]) -> Note,
    name: &'static str,
}

const JSON: Foreign = Foreign {
    write: |note| serde_json::to_vec(note).unwrap(),
    read: |bytes| serde_json::from_slice(bytes).unwrap(),
    name: "JSON",
};
const MESSAGE_PACK: Foreign = Foreign {
    write: |note| rmp_serde::to_vec(note).unwrap(),
    read: |bytes| rmp_serde::from_slice(bytes).unwrap(),
    name: "MessagePack",
};
const POSTCARD: Foreign = Foreign {
    write: |note| {
        let mut buffer = [0; 8192];
        postcard::to_slice(note, &mut buffer).unwrap().to_vec()
    },
    read: |bytes| postcard::from_bytes(bytes).unwrap(),
    name: "postcard",
};
const PROST: Foreign = Foreign {
    write: Message::encode_to_vec,
    read: |bytes| Note::decode(bytes).unwrap(),
    name: "protobuf",
};

/// Sends messages whole, in halves and together, with malformed ones between them.
async fn exchange(stack: impl Pipeline<TcpStream>, frames: Frames, format: Foreign) {
    let mut server = Server::start(stack).await;
    let mut peer = server.dial(frames).await;
    let (short, long) = (note(1, "hi"), note(300, &"long\u{e4}".repeat(500)));

    peer.send(&(format.write)(&short)).await;
    assert_eq!((format.read)(&peer.receive().await), note(2, "hi"));

    let mut bytes = frames.frame(&(format.write)(&short));
    bytes.extend(frames.frame(&(format.write)(&long)));
    let half = bytes.len() - 100;
    peer.send_bytes(&bytes[..half]).await;
    assert_eq!((format.read)(&peer.receive().await), note(2, "hi"));
    peer.send_bytes(&bytes[half..]).await;
    assert_eq!((format.read)(&peer.receive().await), note(301, &long.text));

    // Not one of the formats decodes this, and the message after it is decoded nevertheless.
    let malformed = b"\xffnot a note";
    bytes = frames.frame(malformed);
    bytes.extend(frames.frame(&(format.write)(&short)));
    peer.send_bytes(&bytes).await;
    let reply = (format.read)(&peer.receive().await);
    let expected = format!("malformed {} of {} bytes: ", format.name, malformed.len());
    assert!(reply.text.starts_with(&expected), "{}", reply.text);
    assert_eq!((format.read)(&peer.receive().await), note(2, "hi"));

    drop(peer);
    assert_ne!(server.end().await.reason, CloseReason::Decode);
}

#[tokio::test]
async fn json_in_lines_and_in_length_delimited_frames() {
    let stack = tolerant_notes!(Json::<_, Note>::new(Lines::new()));
    exchange(stack, Frames::Lines, JSON).await;
    let stack = tolerant_notes!(Json::<_, Note>::new(LengthDelimited::new()));
    exchange(stack, Frames::Length, JSON).await;
    let stack = tolerant_notes!(Json::<_, Note>::new(FramesCodec::default()));
    exchange(stack, Frames::Length, JSON).await;
    let stack = tolerant_notes!(Json::<_, Note>::new(VarintDelimited::new()));
    exchange(stack, Frames::Varint, JSON).await;
}

#[tokio::test]
async fn binary_formats_in_length_delimited_frames() {
    let stack = tolerant_notes!(MessagePack::<_, Note>::new(LengthDelimited::new()));
    exchange(stack, Frames::Length, MESSAGE_PACK).await;
    let stack = tolerant_notes!(Postcard::<_, Note>::new(LengthDelimited::new()));
    exchange(stack, Frames::Length, POSTCARD).await;
    let stack = tolerant_notes!(Postcard::<_, Note>::new(FramesCodec::default()));
    exchange(stack, Frames::Length, POSTCARD).await;
    let stack = tolerant_notes!(Prost::<_, Note>::new(LengthDelimited::new()));
    exchange(stack, Frames::Length, PROST).await;
}

#[tokio::test]
async fn binary_formats_in_varint_delimited_frames() {
    let stack = tolerant_notes!(Prost::<_, Note>::new(VarintDelimited::new()));
    exchange(stack, Frames::Varint, PROST).await;
    let stack = tolerant_notes!(MessagePack::<_, Note>::new(VarintDelimited::new()));
    exchange(stack, Frames::Varint, MESSAGE_PACK).await;
    let stack = tolerant_notes!(Postcard::<_, Note>::new(VarintDelimited::new()));
    exchange(stack, Frames::Varint, POSTCARD).await;
}

#[tokio::test]
async fn formats_over_websocket() {
    let text = || WsLayer::new().with_messages(Messages::Text);
    let stack = tolerant_notes!(Json::<_, Note>::new(Text::new()), text());
    exchange(stack, Frames::WebSocket, JSON).await;
    let stack = tolerant_notes!(Prost::<_, Note>::new(Binary::new()), WsLayer::new());
    exchange(stack, Frames::WebSocket, PROST).await;
    let stack = tolerant_notes!(MessagePack::<_, Note>::new(Binary::new()), WsLayer::new());
    exchange(stack, Frames::WebSocket, MESSAGE_PACK).await;
    let stack = tolerant_notes!(Postcard::<_, Note>::new(Binary::new()), WsLayer::new());
    exchange(stack, Frames::WebSocket, POSTCARD).await;
}

#[tokio::test]
async fn message_without_content_is_a_message() {
    // All fields of the note have their defaults, so it has no bytes.
    let stack = tolerant_notes!(Prost::<_, Note>::new(Binary::new()), WsLayer::new());
    let server = Server::start(stack).await;
    let mut peer = server.dial(Frames::WebSocket).await;
    peer.send(b"").await;
    assert_eq!((PROST.read)(&peer.receive().await), note(1, ""));
}

#[tokio::test]
async fn packet_goes_to_the_handler_of_its_opcode_and_its_errors_are_replies() {
    fn add(handler::Postcard((a, b)): handler::Postcard<(u8, u8)>) -> Packet {
        Packet::new(2, handler::Postcard(a + b))
    }

    fn next_note(handler::Prost(note): handler::Prost<Note>) -> Packet {
        Packet::new(3, handler::Prost(support::next(note)))
    }

    fn names(handler::MessagePack(id): handler::MessagePack<u32>) -> Packet {
        Packet::new(4, handler::MessagePack(&note(id, "ada")))
    }

    fn echo(packet: Packet) -> Packet {
        packet
    }

    let router = Router::<Packet, Packet>::new()
        .route(2, add)
        .route(3, next_note)
        .route(4, names)
        .route(0x1234, echo);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Packets::new(LengthDelimited::new())))
        .layer(SessionLayer::new())
        .layer(HandleErrorLayer::new(|error: BoxError| {
            Packet::new(0, error.to_string())
        }))
        .service(router);
    let mut server = Server::start(stack).await;
    let mut peer = server.dial(Frames::Length).await;
    let sent = (PROST.write)(&note(6, "ada"));
    for (opcode, payload, replied, reply) in [
        (2, vec![3, 4], 2, vec![7]),
        (3, sent, 3, (PROST.write)(&note(7, "ada"))),
        (
            4,
            vec![9],
            4,
            rmp_serde::to_vec_named(&note(9, "ada")).unwrap(),
        ),
        (0x1234, b"as it is".to_vec(), 0x1234, b"as it is".to_vec()),
        (2, vec![3], 0, b"malformed postcard of 1 byte: ".to_vec()),
        (9, vec![], 0, b"no route for 9".to_vec()),
    ] {
        peer.send(&[&u16::to_be_bytes(opcode)[..], &payload].concat())
            .await;
        let received = peer.receive().await;
        assert_eq!(received[..2], u16::to_be_bytes(replied));
        assert!(received[2..].starts_with(&reply), "{received:?}");
    }

    peer.send(&[1]).await;
    peer.finish().await;
    server
        .failure(
            CloseReason::Decode,
            |error: &FormatError<LengthDelimitedError>| {
                assert_eq!(error.to_string(), "malformed packet of 1 byte: no opcode");
            },
        )
        .await;
}

#[tokio::test]
async fn malformed_message_closes_a_session_by_default() {
    let mut server = Server::start(strict_notes!(Json::<_, Note>::new(Lines::new()))).await;
    let mut peer = server.dial(Frames::Lines).await;
    peer.send(br#"{"id":1,"text":"a"}"#).await;
    assert_eq!((JSON.read)(&peer.receive().await), note(2, "a"));
    peer.send(br#"{"id":"secret","text":"a"}"#).await;
    peer.finish().await;
    server
        .failure(CloseReason::Decode, |error: &FormatError<LinesError>| {
            let FormatError::Malformed(malformed) = error else {
                panic!("{error}");
            };
            assert_eq!((malformed.format(), malformed.length()), ("JSON", 26));
            let reason: &serde_json::Error = malformed.reason().downcast_ref().unwrap();
            assert!(reason.to_string().contains("secret"));
            // Logs must not quote the peer.
            assert_eq!(
                error.to_string(),
                "malformed JSON of 26 bytes: wrong type or value at line 1 column 14"
            );
            assert!(!format!("{error:?}").contains("secret"));
            assert!(error.source().is_none());
        })
        .await;
}

#[tokio::test]
async fn bad_frames_close_a_tolerant_session_with_their_own_error() {
    let lines = Json::<_, Note>::new(Lines::new().with_max_length(30));
    let mut server = Server::start(tolerant_notes!(lines)).await;
    let mut peer = server.dial(Frames::Lines).await;
    peer.send(&[b'1'; 31]).await;
    peer.finish().await;
    server
        .failure(CloseReason::Decode, |error: &FormatError<LinesError>| {
            assert!(matches!(
                error,
                FormatError::Frame(LinesError::TooLong {
                    length: 31,
                    max: 30
                })
            ));
            assert_eq!(
                error.to_string(),
                "line of at least 31 bytes exceeds the maximum of 30"
            );
        })
        .await;

    let varints = Prost::<_, Note>::new(VarintDelimited::new());
    let mut server = Server::start(tolerant_notes!(varints)).await;
    let mut peer = server.dial(Frames::Varint).await;
    peer.send_bytes(&[0xff; 6]).await;
    peer.finish().await;
    server
        .failure(CloseReason::Decode, |error: &FormatError<_>| {
            assert!(matches!(
                error,
                FormatError::Frame(VarintDelimitedError::Prefix)
            ));
        })
        .await;

    // The stream ends within a frame.
    let lengths = Postcard::<_, Note>::new(LengthDelimited::new());
    let mut server = Server::start(tolerant_notes!(lengths)).await;
    let mut peer = server.dial(Frames::Length).await;
    peer.send_bytes(b"\0\0\0\x08abc").await;
    peer.finish().await;
    server
        .failure(CloseReason::Decode, |error: &FormatError<_>| {
            assert!(matches!(
                error,
                FormatError::Frame(LengthDelimitedError::Truncated {
                    received: 7,
                    expected: 12
                })
            ));
        })
        .await;
}

#[tokio::test]
async fn last_line_of_a_stream_is_a_message() {
    let server = Server::start(tolerant_notes!(Json::<_, Note>::new(Lines::new()))).await;
    let mut peer = server.dial(Frames::Lines).await;
    peer.send_bytes(br#"{"id":7,"text":"last"}"#).await;
    peer.finish().await;
    assert_eq!((JSON.read)(&peer.receive().await), note(8, "last"));
}

#[tokio::test]
async fn message_that_cannot_be_encoded_closes_the_session() {
    // A key of an object in JSON is a text.
    type NoObject = HashMap<(u8, u8), u8>;
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Json::<_, u8, NoObject>::new(Lines::new())))
        .layer(SessionLayer::new())
        .service(handler::handle_with((), |_: u8| {
            NoObject::from([((1, 2), 3)])
        }));
    let mut server = Server::start(stack).await;
    let mut peer = server.dial(Frames::Lines).await;
    peer.send(b"7").await;
    peer.finish().await;
    server
        .failure(CloseReason::Encode, |error: &FormatError<LinesError>| {
            assert!(matches!(error, FormatError::Encode(_)));
            assert_eq!(error.source().unwrap().to_string(), "key must be a string");
        })
        .await;

    let short = VarintDelimited::new().max_frame_length(40);
    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Prost::<_, String>::new(short)))
        .layer(SessionLayer::new())
        .service(handle(|text: String| text.repeat(10)));
    let mut server = Server::start(stack).await;
    let mut peer = server.dial(Frames::Varint).await;
    peer.send(&"hello".to_owned().encode_to_vec()).await;
    peer.finish().await;
    server
        .failure(CloseReason::Encode, |error: &FormatError<_>| {
            assert!(matches!(
                error,
                FormatError::Frame(VarintDelimitedError::TooLong {
                    length: 52,
                    max: 40
                })
            ));
        })
        .await;
}

/// Replies to a malformed payload with its length, and closes after any other error.
fn errors() -> HandleErrorLayer<impl Fn(BoxError) -> Reply<Bytes> + Clone> {
    HandleErrorLayer::new(|error| match error.downcast_ref::<Malformed>() {
        Some(malformed) => Reply::one(Bytes::from(format!("{} bad", malformed.length()))),
        None => Reply::close(),
    })
}

/// Sends a good and a malformed payload to a handler that decodes its argument.
async fn payloads(stack: impl Pipeline<TcpStream>, format: Foreign) {
    let server = Server::start(stack).await;
    let mut peer = server.dial(Frames::Length).await;
    peer.send(b"\xff...").await;
    assert_eq!(peer.receive().await, b"4 bad");
    peer.send(&(format.write)(&note(7, "hi"))).await;
    assert_eq!(peer.receive().await, b"hi");
}

#[tokio::test]
async fn arguments_of_handlers_decode_payloads() {
    macro_rules! stack {
        ($argument:ident) => {
            ServiceBuilder::new()
                .layer(CodecLayer::new(LengthDelimited::new()))
                .layer(SessionLayer::new())
                .layer(errors())
                .service(handle(
                    |handler::$argument(note): handler::$argument<Note>| Bytes::from(note.text),
                ))
        };
    }
    payloads(stack!(Json), JSON).await;
    payloads(stack!(MessagePack), MESSAGE_PACK).await;
    payloads(stack!(Postcard), POSTCARD).await;
    payloads(stack!(Prost), PROST).await;
}

#[tokio::test]
async fn router_decodes_the_data_of_tagged_messages() {
    fn add(handler::Json((a, b)): handler::Json<(u8, u8)>) -> Tagged {
        Tagged::new("sum", &(a + b)).unwrap()
    }
    fn ping(handler::Json(()): handler::Json<()>) -> Tagged {
        Tagged::new("pong", "now").unwrap()
    }
    fn error(text: &str) -> Tagged {
        Tagged::new("error", text).unwrap()
    }

    let stack = ServiceBuilder::new()
        .layer(CodecLayer::new(Json::new(Lines::new()).tolerant()))
        .layer(SessionLayer::new())
        .layer(HandleMalformedLayer::new(|malformed| {
            error(malformed.format())
        }))
        .layer(HandleErrorLayer::new(|_| error("other")))
        .layer(HandleErrorLayer::downcast(|malformed: Malformed| {
            error(&malformed.reason().to_string())
        }))
        .service(
            Router::<Tagged, Tagged>::new()
                .route("add", add)
                .route("ping", ping),
        );
    let server = Server::start(stack).await;
    let mut peer = server.dial(Frames::Lines).await;
    for (message, reply) in [
        (
            r#"{"type":"add","data":[1,2]}"#,
            r#"{"type":"sum","data":3}"#,
        ),
        (
            r#"{"data":[1,2],"more":1,"type":"add"}"#,
            r#"{"type":"sum","data":3}"#,
        ),
        (r#"{"type":"ping"}"#, r#"{"type":"pong","data":"now"}"#),
        (
            r#"{"type":"ping","data":null}"#,
            r#"{"type":"pong","data":"now"}"#,
        ),
        (r#"{"type":"#, r#"{"type":"error","data":"JSON"}"#),
        (r#"{"type":"none"}"#, r#"{"type":"error","data":"other"}"#),
        (
            r#"{"type":"add","data":[1,999]}"#,
            r#"{"type":"error","data":"invalid value: integer `999`, expected u8 at line 1 column 6"}"#,
        ),
    ] {
        peer.send(message.as_bytes()).await;
        assert_eq!(String::from_utf8(peer.receive().await).unwrap(), reply);
    }
}
