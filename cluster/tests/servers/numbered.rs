//! Numbered messages, and members that count them.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use getty_cluster::{
    ClusterTopics,
    form::{Form, from_fns},
};
use getty_core::{Connection, Session, driver};

/// Number of topics.
pub(crate) const TOPICS: u64 = 100;
/// Longest time until a topic is subscribed to.
const WAIT: Duration = Duration::from_secs(60);

/// A message: topic, publisher, and number among the publisher's messages to the topic.
pub(crate) type Numbered = [u64; 3];

/// Returns a form that passes each message that arrives over the bus to `arrived`.
pub(crate) fn form(arrived: impl Fn(Numbered) + Send + Sync + 'static) -> impl Form<Numbered> {
    from_fns(
        |message: &Numbered, to: &mut BytesMut| {
            message
                .iter()
                .for_each(|part| to.extend_from_slice(&part.to_be_bytes()));
            Ok(())
        },
        move |form: Bytes| {
            let (parts, _) = form.as_chunks::<8>();
            let parts: Vec<_> = parts.iter().copied().map(u64::from_be_bytes).collect();
            let message: Numbered = parts.try_into().map_err(|_| "not three numbers")?;
            arrived(message);
            Ok(message)
        },
    )
}

/// Adds a member to each topic. Returns once all are subscribed to.
pub(crate) async fn join(
    rooms: &ClusterTopics<u64, Numbered>,
) -> (Session<Numbered>, Connection<()>) {
    let connection = Connection::new(());
    let (member, _driver) = driver::pair(connection.handle().clone());
    for topic in 0..TOPICS {
        assert!(rooms.join(topic, &member));
    }
    for topic in 0..TOPICS {
        assert!(rooms.subscribed(&topic, WAIT).await);
    }
    (member, connection)
}
