//! Whole stacks, as applications write them: tower's own middleware on both sides of `SessionLayer`, and stacks that must
//! compile without type annotations.

mod budget;
mod foreign;
mod inference;
mod limits;
mod permits;
mod stock_on_connections;
mod stock_on_messages;
mod support;
