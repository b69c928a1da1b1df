//! Tests that sending a message allocates nothing once the queues are warm.

use std::{
    future::ready,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use getty::{Request, Session, service_fn};
use getty_benches::{
    frames::{Form, Frames},
    websocket,
    workload::{runtime, session},
};
use stats_alloc::Region;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::{
    ALLOCATOR, ATTEMPTS, LONG, count,
    stacks::{Reply, Stack},
};

/// Number of messages that are queued at once.
const MANY: usize = 32;

/// Checks sends that are awaited, sends that are not, and several at once.
pub(crate) fn allocates_nothing<S: Stack>() {
    let kinds = "send, try_send, several";
    assert_eq!(sends::<S>(), [0, 0, 0], "{}: {kinds}", S::NAME);
}

/// Returns the number of allocations of sends that are awaited, of sends that are not, and of
/// several at once.
fn sends<S: Stack>() -> [u64; 3] {
    const PAYLOAD: usize = 64;
    let runtime = runtime();
    runtime.block_on(async {
        let (mut client, transport) = duplex(64 * 1024);
        let opened: Arc<Mutex<Option<Session<Bytes>>>> = Arc::default();
        let handler = service_fn({
            let opened = Arc::clone(&opened);
            move |request: Request<Bytes>| -> Reply {
                *opened.lock().unwrap() = Some(request.session().clone());
                ready(Ok(request.into_message()))
            }
        });
        let server = tokio::spawn(session(transport, S::around(handler)));
        let [request, frame] = S::FORMS.map(|form| Frames::in_form(form, PAYLOAD).concatenated(1));
        let mut received = vec![0; MANY * frame.len()];
        if S::FORMS[0] == Form::Masked {
            handshake(&mut client).await;
        }
        client.write_all(&request).await.unwrap();
        client
            .read_exact(&mut received[..frame.len()])
            .await
            .unwrap();
        let session = opened
            .lock()
            .unwrap()
            .take()
            .expect("the handler was called");
        let message = Bytes::copy_from_slice(&frame[frame.len() - PAYLOAD..]);

        let mut least = [u64::MAX; 3];
        for (kind, least) in least.iter_mut().enumerate() {
            // The first attempt is the warm-up: queues grow to the size that this kind of send
            // needs.
            for attempt in 0..=ATTEMPTS {
                let region = Region::new(ALLOCATOR);
                for _ in 0..LONG {
                    let sent = match kind {
                        0 => send_one(&session, &message).await,
                        1 => try_many(&session, &message),
                        _ => send_at_once(&session, &message).await,
                    };
                    let echo = &mut received[..sent * frame.len()];
                    client.read_exact(echo).await.unwrap();
                }
                if attempt > 0 {
                    *least = count(&region).min(*least);
                }
            }
        }
        drop(client);
        server.await.unwrap().unwrap();
        least
    })
}

async fn send_one(session: &Session<Bytes>, message: &Bytes) -> usize {
    session.send(message.clone()).await.unwrap();
    1
}

fn try_many(session: &Session<Bytes>, message: &Bytes) -> usize {
    for _ in 0..MANY {
        session.try_send(message.clone()).unwrap();
    }
    MANY
}

async fn send_at_once(session: &Session<Bytes>, message: &Bytes) -> usize {
    let (first, second, third) = tokio::join!(
        session.send(message.clone()),
        session.send(message.clone()),
        session.feed(message.clone()),
    );
    first.and(second).unwrap();
    third.unwrap();
    3
}

/// Performs a WebSocket handshake up to the last byte of the response.
async fn handshake(client: &mut DuplexStream) {
    client.write_all(websocket::REQUEST).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
}
