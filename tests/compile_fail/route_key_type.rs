//! The key of the route is of another type.

use getty::{Keyed, Router};

struct Command {
    name: String,
}

impl Keyed for Command {
    type Key = u16;

    fn key(&self) -> &u16 {
        &1
    }
}

fn say(command: Command) -> String {
    command.name
}

fn app() -> Router<Command, String> {
    Router::<Command, String>::new().route("say", say)
}

fn main() {}
