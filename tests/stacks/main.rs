//! Whole stacks as applications write them: tower's layers on both sides of `SessionLayer`,
//! third-party layers, and stacks that must compile without type annotations.

mod budget;
mod from_fn;
mod inference;
mod limits;
mod permits;
mod support;
mod third_party;
mod tower_on_connections;
mod tower_on_messages;
