//! Sends over real sockets with many senders and with a peer that is killed.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use bytes::Bytes;
use getty::{
    BoxError, CloseReason, CodecLayer, Connection, Request, SendError, ServiceBuilder, Session,
    SessionLayer, SessionTask, codec, hooks::HandleExt, service_fn,
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};

const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Opens a session over a socket on a new task.
async fn open(socket: TcpStream) -> (Session<Bytes>, SessionTask) {
    let connector = service_fn(|socket| async { Ok::<_, BoxError>(Connection::new(socket)) });
    getty::connect(connector, socket, |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::new(codec::LengthDelimited::new()))
            .layer(link)
            .layer(SessionLayer::new().with_queue(16))
            .service_fn(|_: Request<Bytes>| async { Ok::<_, BoxError>(None::<Bytes>) })
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_a_hundred_senders_arrive_once_and_in_order() {
    const TASKS: u32 = 100;
    const MESSAGES: u32 = 200;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dial = TcpStream::connect(listener.local_addr().unwrap());
    let (peer, accepted) = tokio::join!(dial, listener.accept());
    let (session, task) = open(accepted.unwrap().0).await;
    let received = tokio::spawn(async move {
        let mut peer = peer.unwrap();
        let mut next = BTreeMap::<u32, u32>::new();
        let mut bytes = 0;
        for _ in 0..TASKS * MESSAGES {
            let length = peer.read_u32().await.unwrap() as usize;
            let mut message = vec![0; length];
            peer.read_exact(&mut message).await.unwrap();
            let sender = u32::from_be_bytes(message[..4].try_into().unwrap());
            let number = u32::from_be_bytes(message[4..8].try_into().unwrap());
            let filler = u8::try_from(number % 256).unwrap();
            assert!(message[8..].iter().all(|byte| *byte == filler));
            let expected = next.entry(sender).or_default();
            assert_eq!(number, *expected, "sender {sender}");
            *expected += 1;
            bytes += 4 + length;
        }
        (peer, next, bytes)
    });
    let senders: Vec<_> = (0..TASKS)
        .map(|sender| {
            let session = session.clone();
            tokio::spawn(async move {
                let mut bytes = 0;
                for number in 0..MESSAGES {
                    // Most messages are small. Some are written by reference.
                    let filler = if number % 50 == 0 {
                        20_000
                    } else {
                        number as usize % 100
                    };
                    let mut message = sender.to_be_bytes().to_vec();
                    message.extend_from_slice(&number.to_be_bytes());
                    message.resize(8 + filler, u8::try_from(number % 256).unwrap());
                    let message = Bytes::from(message);
                    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                    bytes += 4 + message.len();
                    match number % 4 {
                        0 => {
                            let pieces = [Bytes::copy_from_slice(&length), message];
                            session.send_raw_vectored(pieces).await.unwrap();
                        }
                        1 => drop(session.send(message).await.unwrap()),
                        2 => session.feed(message).await.unwrap(),
                        _ => loop {
                            session.writable().await.unwrap();
                            match session.try_send(message.clone()) {
                                Ok(()) => break,
                                Err(error) => assert!(error.is_full()),
                            }
                        },
                    }
                }
                bytes
            })
        })
        .collect();
    let mut sent = 0;
    for sender in senders {
        sent += timeout(TIME_LIMIT, sender).await.unwrap().unwrap();
    }
    session.flush().await.unwrap();
    let (peer, next, bytes) = timeout(TIME_LIMIT, received).await.unwrap().unwrap();
    assert_eq!(next.len(), TASKS as usize);
    assert!(next.values().all(|count| *count == MESSAGES));
    drop(peer);
    let stats = timeout(TIME_LIMIT, task).await.unwrap().unwrap().stats;
    assert_eq!(stats.messages_out, u64::from(TASKS * MESSAGES));
    assert_eq!((stats.bytes_out, bytes as u64), (sent as u64, sent as u64));
}

/// Environment variable that is set if this program runs as the peer.
const PEER_OF: &str = "GETTY_TEST_PEER_OF";

/// The test starts itself again as the peer. With the variable set it must connect, read a
/// little, and wait until it is killed.
#[cfg(unix)]
#[tokio::test]
async fn sender_fails_if_its_peer_is_killed_during_a_send() {
    use std::os::unix::process::ExitStatusExt;

    if let Ok(address) = std::env::var(PEER_OF) {
        let address: SocketAddr = address.parse().unwrap();
        let mut socket = TcpStream::connect(address).await.unwrap();
        let mut some = vec![0; 100_000];
        socket.read_exact(&mut some).await.unwrap();
        assert!(some.iter().all(|byte| *byte == b'x'));
        std::future::pending::<()>().await;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "sending::sender_fails_if_its_peer_is_killed_during_a_send",
        ])
        .env(PEER_OF, listener.local_addr().unwrap().to_string())
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (socket, _) = timeout(TIME_LIMIT, listener.accept())
        .await
        .unwrap()
        .unwrap();
    let (session, task) = open(socket).await;
    let sender = tokio::spawn({
        let session = session.clone();
        async move {
            loop {
                if let Err(error) = session.send_raw(Bytes::from(vec![b'x'; 64 * 1024])).await {
                    return error;
                }
            }
        }
    });
    // The peer no longer reads and the kernel's buffers are full: a send is in progress.
    while session.stalled_since().is_none() || session.stats().bytes_out < 100_000 {
        tokio::task::yield_now().await;
    }
    assert!(!sender.is_finished());
    peer.start_kill().unwrap();
    assert_eq!(peer.wait().await.unwrap().signal(), Some(9));
    let error = timeout(TIME_LIMIT, sender).await.unwrap().unwrap();
    assert!(
        matches!(error, SendError::Io(_) | SendError::Closed { .. }),
        "{error:?}"
    );
    let closed = timeout(TIME_LIMIT, task).await.unwrap().unwrap();
    assert!(
        matches!(closed.reason, CloseReason::Io | CloseReason::PeerClosed),
        "{closed}"
    );
    // Later sends fail as well.
    let late = session.try_send(Bytes::from_static(b"late")).unwrap_err();
    assert_eq!(late.into_message().unwrap(), "late");
}
