//! Arguments of handlers.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use getty::{
    ConnectionHandle, Request, Session,
    handler::{
        Attribute, FromRequest, FromSession, MissingAttribute, NoReply, PartOf, PeerAddr,
        Rejection, State, handle, handle_with, via,
    },
    layers::HandleErrorLayer,
    tower::ServiceBuilder,
};

use crate::support::{Server, lines, talk};

#[derive(Clone)]
struct User(Arc<str>);

#[derive(Clone, Default)]
struct App {
    calls: Calls,
    greeting: Greeting,
}

#[derive(Clone, Default)]
struct Calls(Arc<AtomicU32>);

#[derive(Clone)]
struct Greeting(&'static str);

impl Default for Greeting {
    fn default() -> Self {
        Self("hello")
    }
}

impl PartOf<App> for Calls {
    fn part_of(app: &App) -> Self {
        app.calls.clone()
    }
}

impl PartOf<App> for Greeting {
    fn part_of(app: &App) -> Self {
        app.greeting.clone()
    }
}

#[tokio::test]
async fn first_argument_is_the_message_or_the_whole_request() {
    let upper = handle(|line: String| line.to_ascii_uppercase());
    assert_eq!(talk(lines!(upper), &["hi"]).await, ["HI"]);
    let length = handle(|request: Request<String>| request.message().len().to_string());
    assert_eq!(talk(lines!(length), &["four"]).await, ["4"]);
    let length = handle(async |request: Request<String>| request.message().len().to_string());
    assert_eq!(talk(lines!(length), &["four"]).await, ["4"]);
}

#[tokio::test]
async fn first_argument_may_be_of_the_session_or_missing() {
    let named = handle(|session: Session<String>| session.name().starts_with("tcp").to_string());
    assert_eq!(talk(lines!(named), &["hi"]).await, ["true"]);
    let greet = handle_with(
        Greeting("moin"),
        |State(Greeting(text)): State<Greeting>| String::from(text),
    );
    assert_eq!(talk(lines!(greet), &["hi"]).await, ["moin"]);
    assert_eq!(
        talk(lines!(handle(|| "pong".to_owned())), &["hi"]).await,
        ["pong"]
    );
    let pong = handle(async || "pong".to_owned());
    assert_eq!(talk(lines!(pong), &["hi"]).await, ["pong"]);
}

#[tokio::test]
async fn first_argument_may_be_made_of_the_request() {
    struct Number(u64);
    impl<S> FromRequest<String, String, S, via::Whole> for Number {
        fn from_request(request: Request<String>, _: &S) -> Result<Self, Rejection<String>> {
            match request.message().parse() {
                Ok(number) => Ok(Self(number)),
                Err(error) => Err(Rejection::reply(format!("ERR {error}"))),
            }
        }
    }

    async fn next(Number(number): Number, _session: Session<String>) -> String {
        (number + 1).to_string()
    }
    let heard = talk(lines!(handle(next)), &["1", "x", "3"]).await;
    assert_eq!(heard, ["2", "ERR invalid digit found in string", "4"]);
}

#[tokio::test]
async fn other_arguments_are_of_the_session_and_the_state() {
    #[expect(clippy::too_many_arguments, reason = "the test is of the maximum")]
    fn all(
        line: String,
        session: Session<String>,
        handle: ConnectionHandle,
        PeerAddr(peer): PeerAddr,
        State(app): State<App>,
        State(Calls(calls)): State<Calls>,
        user: Option<Attribute<User>>,
        State(Greeting(greeting)): State<Greeting>,
    ) -> String {
        assert_eq!(session.id(), handle.id());
        assert_eq!(app.calls.0.load(Relaxed), calls.fetch_add(1, Relaxed));
        let name = match user {
            Some(Attribute(User(name))) => name,
            None => "nobody".into(),
        };
        session.insert(User(line.into()));
        format!("{greeting} {name} {peer} {}", app.calls.0.load(Relaxed))
    }

    let server = Server::start(lines!(handle_with(App::default(), all))).await;
    let mut peer = server.dial().await;
    let address = peer.address();
    let heard = peer.ask("ada").await.unwrap();
    assert_eq!(heard, format!("hello nobody {address} 1"));
    let heard = peer.ask("bob").await.unwrap();
    assert_eq!(heard, format!("hello ada {address} 2"));
    let mut other = server.dial().await;
    let heard = other.ask("eve").await.unwrap();
    assert_eq!(heard, format!("hello nobody {} 3", other.address()));
}

#[tokio::test]
async fn handlers_may_capture_values() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    let plain = handle(move |_line: String| (counted.fetch_add(1, Relaxed) + 1).to_string());
    assert_eq!(talk(lines!(plain), &["a", "b"]).await, ["1", "2"]);
    let counted = calls.clone();
    let waits = handle(async move |_line: String| {
        tokio::task::yield_now().await;
        (counted.fetch_add(1, Relaxed) + 1).to_string()
    });
    assert_eq!(talk(lines!(waits), &["a", "b"]).await, ["3", "4"]);
}

#[tokio::test]
async fn missing_attribute_is_an_error_of_the_call() {
    fn whoami(_line: String, Attribute(User(name)): Attribute<User>) -> String {
        name.to_string()
    }

    // without a layer the error closes the session
    assert_eq!(talk(lines!(handle(whoami)), &["a", "b"]).await, [""; 0]);

    let stack = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(|error| {
            let missing = error.downcast_ref::<MissingAttribute>().unwrap();
            assert!(missing.type_name.ends_with("User"));
            assert!(missing.to_string().contains("has no attribute"));
            "log in first".to_owned()
        }))
        .service(handle(whoami));
    assert_eq!(talk(lines!(stack), &["a", "b"]).await, ["log in first"; 2]);
}

#[tokio::test]
async fn message_is_not_decoded_if_another_argument_rejects_it() {
    struct Decoded;
    impl<S> FromRequest<String, String, S, via::Whole> for Decoded {
        fn from_request(_: Request<String>, _: &S) -> Result<Self, Rejection<String>> {
            panic!("the message was rejected before")
        }
    }
    struct LoggedIn;
    impl<S> FromSession<String, S> for LoggedIn {
        fn from_session(_: &Session<String>, _: &S) -> Result<Self, Rejection<String>> {
            Err(Rejection::reply(vec!["no".to_owned(), "really".to_owned()]))
        }
    }

    let handler = handle(|_: Decoded, _: LoggedIn| NoReply);
    assert_eq!(talk(lines!(handler), &["a"]).await, ["no", "really"]);
}
