//! Who is in which room, what they are called, and who hears what.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use getty::{Closed, Group, IntoReply, Reply, Session, Topics};

/// What is sent: made once for all who get it.
pub(crate) type Line = Arc<str>;

const LOBBY: &str = "lobby";
/// In characters, for names of people and rooms.
const LONGEST_NAME: usize = 20;
/// In bytes, for what people type.
const LONGEST_TEXT: usize = 1024;
/// How many names `/who` puts in a line.
const NAMES_A_LINE: usize = 50;

const HELP: [&str; 8] = [
    "* what you type goes to everybody in your room",
    "* /name NAME   be called so",
    "* /join ROOM   go to a room, which is made if need be",
    "* /leave       go back to the lobby",
    "* /who         see who is in your room",
    "* /echo        hear your own lines, too, as the others do",
    "* /quit        hang up",
    "* /help        see this",
];

/// All rooms of the server. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Rooms(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Nothing waits while it is locked, for broadcasts do not; and all hear what is said in one order.
    state: Mutex<State>,
    everybody: Group<Line>,
    rooms: Topics<Line, Line>,
}

#[derive(Debug, Default)]
struct State {
    people: HashMap<u64, Person>,
    /// In lower case, so that nobody passes for another.
    names: HashSet<String>,
    guests: u64,
    endings: BTreeMap<&'static str, usize>,
    closing: bool,
}

#[derive(Debug)]
struct Person {
    name: Line,
    room: Line,
    /// Whether the person's own lines come back, which tells programs that they have arrived.
    echo: bool,
}

impl Default for Rooms {
    fn default() -> Self {
        // a slow reader misses lines, nobody else waits for that
        let missed = |n: u64| format!("* you read too slowly and have missed {n} lines").into();
        Self(Arc::new(Shared {
            state: Mutex::default(),
            everybody: Group::new(),
            rooms: Topics::new().with_notice(missed),
        }))
    }
}

impl Rooms {
    /// Puts a new guest into the lobby until the session ends.
    pub(crate) fn enter(&self, session: &Session<Line>) {
        self.welcome(session);
        // without the lock, because on a session that has ended already the callback runs right here
        let (rooms, id) = (self.clone(), session.id());
        session.add_close_callback("chat", id, move |closed| rooms.left(id, closed));
    }

    /// Does what a person's line asks for. The reply is the person's own; others hear of it by themselves.
    pub(crate) fn hear(&self, session: &Session<Line>, line: &str) -> Reply<Line> {
        let line = printable(line);
        let line = line.trim();
        if line.is_empty() {
            return Reply::none();
        }
        let Some(command) = line.strip_prefix('/') else {
            return self.say(session, line);
        };
        let (command, argument) = command
            .split_once(char::is_whitespace)
            .map_or((command, ""), |(command, rest)| (command, rest.trim()));
        match command {
            "name" => self.rename(session, argument),
            "join" => self.go(session, argument),
            "leave" => self.go(session, LOBBY),
            "who" => self.who(session),
            "echo" => self.echo(session),
            "help" => Reply::many(HELP.map(Line::from).into()),
            "quit" => notice("goodbye").and_close(),
            _ => notice(format_args!("there is no /{command}; try /help")),
        }
    }

    /// Tells everybody that the server goes down, and how many they are. They do not hear of each other's leaving.
    pub(crate) fn say_goodbye(&self) -> usize {
        let mut state = self.lock();
        state.closing = true;
        let line = Line::from("* the server is going down: goodbye");
        self.0.everybody.broadcast(line);
        state.people.len()
    }

    /// How many sessions have ended, and how.
    pub(crate) fn endings(&self) -> String {
        let state = self.lock();
        let total: usize = state.endings.values().sum();
        let each = state
            .endings
            .iter()
            .map(|(reason, n)| format!(", {reason} {n}"));
        total.to_string() + &each.collect::<String>()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn welcome(&self, session: &Session<Line>) {
        let mut state = self.lock();
        let name = state.guest_name();
        let room = Line::from(LOBBY);
        let welcome = format!("* you are {name} in the room {LOBBY}; try /help");
        // the queue of a session that has just opened is empty
        let _ = session.try_send(welcome.into());
        self.tell(&room, session, format_args!("* {name} is here"));
        self.0.everybody.join(session);
        self.0.rooms.join(Arc::clone(&room), session);
        let person = Person {
            name,
            room,
            echo: false,
        };
        state.people.insert(session.id(), person);
    }

    /// The session has ended, and with it its part in groups.
    fn left(&self, id: u64, closed: &Closed) {
        let mut state = self.lock();
        *state.endings.entry(closed.reason.as_str()).or_default() += 1;
        let Some(Person { name, room, .. }) = state.people.remove(&id) else {
            return;
        };
        state.names.remove(&name.to_lowercase());
        if !state.closing {
            let line = format!("* {name} has left").into();
            self.0.rooms.broadcast(&room, line);
        }
    }

    fn say(&self, session: &Session<Line>, text: &str) -> Reply<Line> {
        if text.len() > LONGEST_TEXT {
            return notice(format_args!(
                "nobody got that: it has {} bytes, and {LONGEST_TEXT} are allowed",
                text.len()
            ));
        }
        let state = self.lock();
        let Some(person) = state.people.get(&session.id()) else {
            return Reply::none();
        };
        let line = Line::from(format!("{}: {text}", person.name));
        let own = person.echo.then(|| Arc::clone(&line));
        self.0.rooms.broadcast_except(&person.room, session, line);
        own.into_reply()
    }

    fn rename(&self, session: &Session<Line>, name: &str) -> Reply<Line> {
        if let Err(why) = check_name(name) {
            return notice(format_args!("no name: {why}"));
        }
        let mut state = self.lock();
        let State { people, names, .. } = &mut *state;
        let Some(person) = people.get_mut(&session.id()) else {
            return Reply::none();
        };
        let (old, new) = (person.name.to_lowercase(), name.to_lowercase());
        if old != new && names.contains(&new) {
            return notice(format_args!("somebody is called {name} already"));
        }
        names.remove(&old);
        names.insert(new);
        let before = std::mem::replace(&mut person.name, name.into());
        self.tell(
            &person.room,
            session,
            format_args!("* {before} is now {name}"),
        );
        notice(format_args!("you are {name} now"))
    }

    fn go(&self, session: &Session<Line>, room: &str) -> Reply<Line> {
        if let Err(why) = check_name(room) {
            return notice(format_args!("no room: {why}"));
        }
        let mut state = self.lock();
        let Some(person) = state.people.get_mut(&session.id()) else {
            return Reply::none();
        };
        if *person.room == *room {
            return notice(format_args!("you are in {room} already"));
        }
        let (name, rooms) = (&person.name, &self.0.rooms);
        rooms.leave(&person.room, session);
        self.tell(
            &person.room,
            session,
            format_args!("* {name} has left for {room}"),
        );
        self.tell(room, session, format_args!("* {name} is here"));
        rooms.join(room.into(), session);
        person.room = room.into();
        notice(format_args!("you are in {room} now"))
    }

    fn who(&self, session: &Session<Line>) -> Reply<Line> {
        let state = self.lock();
        let Some(Person { room, .. }) = state.people.get(&session.id()) else {
            return Reply::none();
        };
        let members = self.0.rooms.members(room);
        let mut names: Vec<&str> = members
            .iter()
            .filter_map(|member| state.people.get(&member.id()))
            .map(|person| &*person.name)
            .collect();
        names.sort_unstable();
        let lines = names.chunks(NAMES_A_LINE);
        Reply::many(
            lines
                .map(|names| format!("* in {room}: {}", names.join(", ")).into())
                .collect(),
        )
    }

    fn echo(&self, session: &Session<Line>) -> Reply<Line> {
        if let Some(person) = self.lock().people.get_mut(&session.id()) {
            person.echo = true;
        }
        notice("you hear your own lines now")
    }

    /// Everybody in `room` but the one whom it is about.
    fn tell(&self, room: &str, about: &Session<Line>, line: fmt::Arguments<'_>) {
        let line = line.to_string().into();
        self.0.rooms.broadcast_except(room, about, line);
    }
}

impl State {
    /// One that nobody has.
    fn guest_name(&mut self) -> Line {
        loop {
            self.guests += 1;
            let name = format!("guest-{}", self.guests);
            if self.names.insert(name.clone()) {
                return name.into();
            }
        }
    }
}

fn notice(text: impl fmt::Display) -> Reply<Line> {
    Reply::one(format!("* {text}").into())
}

/// Without what could play tricks on another's terminal.
fn printable(line: &str) -> String {
    line.chars()
        .map(|c| if c == '\t' { ' ' } else { c })
        .filter(|c| !c.is_control())
        .collect()
}

/// No spaces and no punctuation but `-` and `_`, so that a name cannot be taken for a notice or for what somebody said.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("it is missing".to_owned());
    }
    if name.chars().count() > LONGEST_NAME {
        return Err(format!("more than {LONGEST_NAME} characters"));
    }
    match name
        .chars()
        .find(|&c| !(c.is_alphanumeric() || "-_".contains(c)))
    {
        Some(c) => Err(format!("letters, digits, - and _ only, not {c:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use getty::{
        CloseReason, Connection,
        driver::{self, Driver, Payload},
    };

    use super::*;

    /// Somebody in the rooms, whose session nobody drives but the test.
    struct Guest {
        rooms: Rooms,
        session: Session<Line>,
        driver: Driver<Line>,
        connection: Connection<()>,
    }

    impl Guest {
        fn enter(rooms: &Rooms) -> Self {
            let connection = Connection::new(());
            let (session, driver) = driver::pair(connection.handle().clone());
            rooms.enter(&session);
            Self {
                rooms: rooms.clone(),
                session,
                driver,
                connection,
            }
        }

        fn types(&self, line: &str) -> Vec<Line> {
            self.rooms
                .hear(&self.session, line)
                .into_parts()
                .0
                .collect()
        }

        fn hears(&mut self) -> Vec<Line> {
            self.driver.turn(&Context::from_waker(Waker::noop()));
            std::iter::from_fn(|| self.driver.next_outgoing())
                .map(|outgoing| match outgoing.payload {
                    Payload::Message(line) => line,
                    Payload::Shared(line) => line.message(),
                    other => panic!("nobody sends {other:?}"),
                })
                .collect()
        }

        fn hears_last(&mut self) -> Line {
            self.hears().pop().expect("somebody said something")
        }

        fn hangs_up(self) {
            self.connection.handle().close_with(CloseReason::PeerClosed);
        }
    }

    #[test]
    fn line_reaches_everybody_else_in_the_room_and_nobody_elsewhere() {
        let rooms = Rooms::default();
        let (mut one, mut two, mut three) = (
            Guest::enter(&rooms),
            Guest::enter(&rooms),
            Guest::enter(&rooms),
        );
        three.types("/join tea");
        one.hears();
        three.hears();
        assert!(one.types("hello").is_empty());
        assert_eq!(&*two.hears_last(), "guest-1: hello");
        assert!(one.hears().is_empty());
        assert!(three.hears().is_empty());
    }

    #[test]
    fn names_are_unique_whatever_their_case_and_free_again_when_their_owner_is_gone() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        one.types("/name Ada");
        assert_eq!(
            *two.types("/name aDA"),
            ["* somebody is called aDA already".into()]
        );
        one.hangs_up();
        assert_eq!(&*two.hears_last(), "* Ada has left");
        assert_eq!(*two.types("/name aDA"), ["* you are aDA now".into()]);
    }

    #[test]
    fn guest_gets_a_name_that_nobody_has_taken() {
        let rooms = Rooms::default();
        let one = Guest::enter(&rooms);
        one.types("/name guest-2");
        let mut two = Guest::enter(&rooms);
        assert_eq!(
            &*two.hears_last(),
            "* you are guest-3 in the room lobby; try /help"
        );
    }

    #[test]
    fn nothing_typed_can_pass_for_a_notice_or_move_another_terminal() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        for bad in ["", "a b", "a:b", "*", "abcdefghijklmnopqrstu", "a\u{202e}b"] {
            assert!(
                one.types(&format!("/name {bad}"))[0].starts_with("* no name: "),
                "{bad:?}"
            );
        }
        two.hears();
        one.types("\x1b[2J\thi\x07\u{9b}");
        assert_eq!(&*two.hears_last(), "guest-1: [2J hi");
    }

    #[test]
    fn own_line_comes_back_to_whoever_asks_for_it_as_the_others_hear_it() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        assert_eq!(
            *one.types("/echo"),
            ["* you hear your own lines now".into()]
        );
        assert_eq!(*one.types(" hi\x07 "), ["guest-1: hi".into()]);
        assert_eq!(&*two.hears_last(), "guest-1: hi");
        assert!(two.types("hi").is_empty());
    }

    #[test]
    fn slow_reader_is_told_how_much_was_dropped() {
        let rooms = Rooms::default();
        let (one, mut two) = (Guest::enter(&rooms), Guest::enter(&rooms));
        two.hears();
        two.driver.settle(true);
        two.driver.set_queue_bytes(1000);
        for n in 0..100 {
            one.types(&n.to_string());
        }
        let missed = 100 - two.hears().len();
        assert!(missed > 0);
        two.driver.settle(false);
        one.types("after");
        assert_eq!(
            two.hears(),
            [
                format!("* you read too slowly and have missed {missed} lines").into(),
                Line::from("guest-1: after")
            ]
        );
    }
}
