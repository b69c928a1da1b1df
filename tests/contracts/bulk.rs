//! Bulk transfers in pieces of any size and with slow peers.

use bytes::{BufMut, BytesMut};
use getty::{
    BoxError, CloseReason, CodecLayer, Request, ServiceBuilder, SessionLayer,
    codec::{Frame, Frames},
};
use getty_test::stream;
use proptest::{collection::vec, prelude::*};
use tokio::{runtime, task::yield_now};

use crate::support::{connector, idle, soon};

/// Input of a session, its pieces, and the speed at which the peer takes replies.
#[derive(Clone, Debug)]
struct Much {
    bound: usize,
    sizes: Vec<usize>,
    pieces: Vec<usize>,
    takes: Vec<usize>,
    in_flight: usize,
}

fn much() -> impl Strategy<Value = Much> {
    let bound = prop_oneof![
        Just(5_000_usize),
        Just(64 * 1024),
        Just(100_000),
        Just(300_000)
    ];
    let size = prop_oneof![0..300_usize, 0..70_000_usize, 60_000..LONGEST];
    let piece = prop_oneof![1..5_000_usize, 60_000..70_000_usize, 100_000..300_000_usize];
    let take = prop_oneof![
        2 => Just(usize::MAX),
        1 => 0..5_000_usize,
        1 => 60_000..300_000_usize,
    ];
    (
        bound,
        vec(size, 1..60),
        vec(piece, 1..20),
        vec(take, 1..20),
        1..4_usize,
    )
        .prop_map(|(bound, sizes, pieces, takes, in_flight)| Much {
            bound,
            sizes,
            pieces,
            takes,
            in_flight,
        })
}

/// Maximum frame length in inputs of many bytes, in bytes.
const LONGEST: usize = 200_000;

/// Returns the input and the replies.
async fn echo_of(much: Much) -> (Vec<u8>, Vec<u8>) {
    let (transport, peer) = stream();
    let codec = Frames::new().max_frame_length(LONGEST);
    let (_session, task) = getty::connect(connector(), transport, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(codec).with_max_frame(much.bound))
            .layer(link)
            .layer(SessionLayer::new().with_in_flight(much.in_flight))
            .service_fn(|request: Request<Frame>| async move {
                let frame = request.into_message();
                if frame.len() % 5 == 1 {
                    yield_now().await;
                }
                Ok::<_, BoxError>(frame)
            })
    })
    .await
    .unwrap();
    let mut sent = BytesMut::new();
    for (n, size) in (1..).zip(&much.sizes) {
        sent.put_u32(u32::try_from(*size).unwrap());
        sent.put_bytes(n, *size);
    }
    let mut rest = &sent[..];
    for (piece, take) in much.pieces.iter().cycle().zip(much.takes.iter().cycle()) {
        if rest.is_empty() {
            break;
        }
        peer.stall();
        peer.take(*take);
        let (now, later) = rest.split_at(rest.len().min(*piece));
        peer.send(now);
        rest = later;
        idle().await;
    }
    peer.finish();
    peer.take_all();
    let answers = soon(peer.bytes(sent.len())).await;
    assert_eq!(soon(task).await.unwrap().reason, CloseReason::PeerClosed);
    (sent.to_vec(), answers)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    // The sizes of reads and writes adapt. The peer must not notice it.
    #[test]
    fn bulk_input_has_its_replies_in_order_and_complete(much in much()) {
        let mut runtime = runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        let (sent, answers) = runtime.block_on(echo_of(much));
        prop_assert!(sent == answers);
    }
}
