//! Sessions whose codec switches: both roles, and a group with members in both states.

use std::time::Duration;

use getty::{
    CodecLayer, Group, NoReply, Reply, ServiceBuilder, Session, SessionLayer, State,
    codec::{Bytes, LengthDelimited, Lines, Switch, Switched},
    connect, handle, handle_with,
    net::memory,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::mpsc,
};

type Message = Switched<String, Bytes>;

fn is_request(line: &str) -> bool {
    line == "BINARY"
}

/// A server that joins each session to a group, switches on request, and echoes.
fn serve(group: Group<Message>) -> getty::net::MemoryConnector {
    let (listener, connector) = memory(64 * 1024);
    let answer =
        |message: Message, session: Session<Message>, State(all): State<Group<Message>>| {
            all.join(&session);
            Reply::one(match message {
                Switched::Before(line) if is_request(&line) => Switched::Before("OK".to_owned()),
                message => message,
            })
        };
    let app = ServiceBuilder::new()
        .layer(CodecLayer::per_connection(|_| {
            Switch::new(Lines::new(), LengthDelimited::new(), |line: &String| {
                is_request(line)
            })
        }))
        .layer(SessionLayer::new())
        .service(handle_with(group, answer));
    tokio::spawn(getty::serve(listener, app).into_future());
    connector
}

/// Sends `bytes` and checks the answer.
async fn check(peer: &mut DuplexStream, bytes: &[u8], expected: &[u8]) {
    peer.write_all(bytes).await.unwrap();
    read(peer, expected).await;
}

async fn read(peer: &mut DuplexStream, expected: &[u8]) {
    let mut answer = vec![0; expected.len()];
    let read = peer.read_exact(&mut answer);
    tokio::time::timeout(Duration::from_secs(60), read)
        .await
        .expect("no answer")
        .unwrap();
    assert_eq!(answer, expected);
}

#[tokio::test(start_paused = true)]
async fn bytes_behind_the_request_belong_to_the_second_codec_wherever_they_are_cut() {
    let connector = serve(Group::new());
    let sent = b"hi\nBINARY\n\0\0\0\x02yo\0\0\0\x01\n";
    let expected = b"hi\nOK\n\0\0\0\x02yo\0\0\0\x01\n";
    for cut in 0..sent.len() {
        let mut peer = connector.connect().await.unwrap().into_parts().0;
        let (first, second) = sent.split_at(cut);
        peer.write_all(first).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        check(&mut peer, second, expected).await;
    }
}

#[tokio::test(start_paused = true)]
async fn client_switches_with_the_answer() {
    let connector = serve(Group::new());
    let (sender, mut received) = mpsc::unbounded_channel();
    let (session, _task) = connect(connector, (), |link| {
        ServiceBuilder::new()
            .layer(CodecLayer::per_connection(|_| {
                Switch::new(Lines::new(), LengthDelimited::new(), |line: &String| {
                    line == "OK"
                })
            }))
            .layer(link)
            .layer(SessionLayer::new())
            .service(handle(move |message: Message| {
                let _ = sender.send(message);
                NoReply
            }))
    })
    .await
    .unwrap();
    // It need not wait for the answer, because its directions switch separately.
    for message in [
        Switched::Before("BINARY".to_owned()),
        Switched::After(Bytes::from("\n\0")),
    ] {
        session.send(message).await.unwrap();
    }
    for message in [
        Switched::Before("OK".to_owned()),
        Switched::After(Bytes::from("\n\0")),
    ] {
        assert_eq!(received.recv().await, Some(message));
    }
    // It has sent a message of the second codec.
    let refused = session.send(Switched::Before("late".to_owned())).await;
    assert!(refused.is_err());
}

#[tokio::test(start_paused = true)]
async fn answer_of_the_new_form_switches_both_directions() {
    let (listener, connector) = memory(64 * 1024);
    let answer = |message: Message| {
        Reply::one(match message {
            Switched::Before(line) if line == "HELLO 3" => Switched::After("hello".into()),
            message => message,
        })
    };
    let app = ServiceBuilder::new()
        .layer(CodecLayer::per_connection(|_| {
            Switch::when_sent(Lines::new(), LengthDelimited::new())
        }))
        .layer(SessionLayer::new())
        .service(handle(answer));
    tokio::spawn(getty::serve(listener, app).into_future());
    let mut peer = connector.connect().await.unwrap().into_parts().0;
    check(&mut peer, b"hi\n", b"hi\n").await;
    check(&mut peer, b"HELLO 3\n", b"\0\0\0\x05hello").await;
    check(&mut peer, b"\0\0\0\x01\n", b"\0\0\0\x01\n").await;
}

#[tokio::test(start_paused = true)]
async fn group_encodes_for_each_member_by_its_state() {
    let group = Group::new();
    let connector = serve(group.clone());
    let mut before = connector.connect().await.unwrap().into_parts().0;
    let mut after = connector.connect().await.unwrap().into_parts().0;
    check(&mut before, b"hi\n", b"hi\n").await;
    check(&mut after, b"BINARY\n\0\0\0\x01!", b"OK\n\0\0\0\x01!").await;

    // Dropped for the member that has switched, which stays open.
    group.broadcast(Switched::Before("to all".to_owned()));
    read(&mut before, b"to all\n").await;
    check(&mut after, b"\0\0\0\x01!", b"\0\0\0\x01!").await;

    // The member that has not switched does so.
    group.broadcast(Switched::After("to all".into()));
    read(&mut before, b"\0\0\0\x06to all").await;
    read(&mut after, b"\0\0\0\x06to all").await;
    group.broadcast(Switched::Before("late".to_owned()));
    check(&mut after, b"\0\0\0\x01!", b"\0\0\0\x01!").await;
}
