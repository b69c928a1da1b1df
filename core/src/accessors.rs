//! Access to the inner service of a middleware, for the crates of getty.

/// Defines `get_ref`, `get_mut` and `into_inner` for a service with a field `inner: S`.
#[doc(hidden)]
#[macro_export]
macro_rules! inner_service_accessors {
    () => {
        /// Returns a reference to the inner service.
        pub const fn get_ref(&self) -> &S {
            &self.inner
        }

        /// Returns a mutable reference to the inner service.
        pub const fn get_mut(&mut self) -> &mut S {
            &mut self.inner
        }

        /// Returns the inner service by value.
        pub fn into_inner(self) -> S {
            self.inner
        }
    };
}
