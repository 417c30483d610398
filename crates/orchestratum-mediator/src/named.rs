//! Names of types, from which keys are made.

use std::borrow::Cow;

/// A type with a stable name: requests, and whatever stands in the name of a generic request.
///
/// The name is stored with every command, so it must not change while commands of it wait; that is why it is not the
/// compiler's name of the type. `#[derive(Request)]` and `#[derive(StreamRequest)]` implement it, for other types
/// `#[derive(Named)]` does.
#[diagnostic::on_unimplemented(
    message = "`{Self}` has no name for use in the name of a request",
    label = "has no name",
    note = "add `#[derive(Named)]` to `{Self}`; the name of a generic request contains those of its parameters"
)]
pub trait Named {
    /// The name.
    fn name() -> Cow<'static, str>;
}

/// `send_email<welcome>`.
#[must_use]
pub fn generic_name(name: &str, parameters: &[Cow<'static, str>]) -> Cow<'static, str> {
    Cow::Owned(format!("{name}<{}>", parameters.join(",")))
}

macro_rules! named {
    ($($type:ty => $name:literal)*) => {
        $(impl Named for $type {
            fn name() -> Cow<'static, str> {
                Cow::Borrowed($name)
            }
        })*
    };
}

named! {
    () => "unit" bool => "bool" char => "char" String => "string"
    i8 => "i8" i16 => "i16" i32 => "i32" i64 => "i64" i128 => "i128" isize => "isize"
    u8 => "u8" u16 => "u16" u32 => "u32" u64 => "u64" u128 => "u128" usize => "usize"
    f32 => "f32" f64 => "f64"
}

impl<T: Named> Named for Option<T> {
    fn name() -> Cow<'static, str> {
        generic_name("option", &[T::name()])
    }
}

impl<T: Named> Named for Vec<T> {
    fn name() -> Cow<'static, str> {
        generic_name("vec", &[T::name()])
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use crate::{Named, Request};

    #[derive(Named)]
    struct Welcome;

    #[derive(Named)]
    #[named("bill")]
    struct Invoice;

    #[derive(Serialize, Deserialize, Request)]
    struct SendEmailCommand<T, const COPIES: usize> {
        template: std::marker::PhantomData<T>,
    }

    #[derive(Serialize, Deserialize, Request)]
    #[request(name = "choose")]
    enum Choice {
        This { number: u32 },
        That,
    }

    #[test]
    fn a_name_contains_those_of_the_parameters() {
        assert_eq!(SendEmailCommand::<Welcome, 1>::name(), "send_email<welcome,1>");
        assert_eq!(SendEmailCommand::<Option<Vec<Invoice>>, 20>::name(), "send_email<option<vec<bill>>,20>");
        assert_eq!(Choice::name(), "choose");
    }
}
