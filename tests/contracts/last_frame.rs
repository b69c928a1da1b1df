//! The end of a stream within a frame. Each codec treats the rest of the frame in its way.

use std::{
    error::Error,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use getty::{
    BoxError, CloseReason, Closed, Request, SessionLayer,
    codec::{
        Decoder, Encoder, Frames, LengthDelimited, LengthDelimitedError, Lines, LinesError, Raw,
        Text, TextError,
    },
    service_fn,
};
use getty_test::stream;

use crate::support::{open, soon};

/// Runs a session whose peer sends `bytes` and ends the stream. Returns the close record and
/// the messages that the handler receives.
async fn end<Out, C>(codec: C, bytes: &[u8]) -> (Closed, Vec<Bytes>)
where
    C: Decoder<Item: Into<Bytes> + Send, Error: Into<BoxError>>,
    C: Encoder<Out, Error: Into<BoxError>> + Clone + Send + 'static,
    Out: Send + 'static,
{
    let (transport, peer) = stream();
    let got = Arc::new(Mutex::new(Vec::new()));
    let handled = Arc::clone(&got);
    let handler = service_fn(move |request: Request<C::Item, Out>| {
        let mut handled = handled.lock().unwrap();
        handled.push(request.into_message().into());
        assert!(handled.len() < 10, "endless messages");
        async { Ok::<Option<Out>, BoxError>(None) }
    });
    if !bytes.is_empty() {
        peer.send(bytes);
    }
    peer.finish();
    let (_session, task) = open(transport, codec, SessionLayer::new(), handler).await;
    let closed = soon(task).await.unwrap();
    let got = got.lock().unwrap().clone();
    (closed, got)
}

fn source<E: Error + 'static>(closed: &Closed) -> &E {
    let source = closed.source.as_ref().expect("the error is recorded");
    source.downcast_ref().expect("it is an error of the codec")
}

#[tokio::test(start_paused = true)]
async fn last_line_needs_no_line_end_by_default() {
    for bytes in ["PAY 1\nPAY 100", "PAY 1\nPAY 100\r"] {
        let (closed, got) = end::<String, _>(Lines::new(), bytes.as_bytes()).await;
        assert_eq!(closed.reason, CloseReason::PeerClosed);
        assert_eq!(got, ["PAY 1", "PAY 100"]);
    }
}

#[tokio::test(start_paused = true)]
async fn unterminated_last_line_is_refused_if_required() {
    let lines = Lines::new().with_final_newline_required();
    let (closed, got) = end::<String, _>(lines.clone(), b"PAY 1\r\nPAY 100").await;
    assert_eq!(closed.reason, CloseReason::Decode);
    let error: &LinesError = source(&closed);
    assert!(
        matches!(error, LinesError::Unterminated { length: 7 }),
        "{error}"
    );
    assert_eq!(got, ["PAY 1"]);

    let (closed, got) = end::<String, _>(lines, b"PAY 1\nPAY 10000\n").await;
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(got, ["PAY 1", "PAY 10000"]);
}

#[tokio::test(start_paused = true)]
async fn partial_length_delimited_frame_is_refused() {
    let bytes = b"\0\0\0\x05whole\0\0\0\x05half";
    let (by_length, first) = end::<Bytes, _>(LengthDelimited::new(), bytes).await;
    let (by_frames, second) = end::<Bytes, _>(Frames::default(), bytes).await;
    for (closed, got) in [(by_length, first), (by_frames, second)] {
        assert_eq!(got, ["whole"]);
        assert_eq!(closed.reason, CloseReason::Decode);
        let error: &LengthDelimitedError = source(&closed);
        assert!(
            matches!(
                error,
                LengthDelimitedError::Truncated {
                    received: 8,
                    expected: 9
                }
            ),
            "{error}"
        );
    }
}

/// A stream has no message boundaries. Its end must not count as one.
#[tokio::test(start_paused = true)]
async fn text_decodes_nothing_from_a_stream() {
    let (closed, got) = end::<String, _>(Text::new(), b"PAY 100").await;
    assert!(got.is_empty(), "{got:?}");
    assert_eq!(closed.reason, CloseReason::Decode);
    assert_eq!(source::<TextError>(&closed), &TextError::NoBoundaries);

    let (closed, got) = end::<String, _>(Text::new(), b"").await;
    assert!(got.is_empty(), "{got:?}");
    assert_eq!(closed.reason, CloseReason::PeerClosed);
}

#[tokio::test(start_paused = true)]
async fn raw_bytes_are_never_truncated() {
    let (closed, got) = end::<Bytes, _>(Raw::new().with_max_length(4), b"PAY 100").await;
    assert_eq!(closed.reason, CloseReason::PeerClosed);
    assert_eq!(got, ["PAY ", "100"]);
}
