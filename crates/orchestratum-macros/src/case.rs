//! Names of types in snake case.

/// The type's name in snake case without a trailing `Command`: `SendEmailCommand` is `send_email`.
pub(crate) fn request_name(type_name: &str) -> String {
    match type_name.strip_suffix("Command") {
        Some(rest) if !rest.is_empty() => snake_case(rest),
        _ => snake_case(type_name),
    }
}

/// `HTTPPing2` is `http_ping2`: a word begins at a capital letter that follows a small one or a digit, and at the last
/// capital of a row when a small letter follows it.
pub(crate) fn snake_case(type_name: &str) -> String {
    let letters: Vec<char> = type_name.trim_start_matches("r#").chars().collect();
    let mut name = String::with_capacity(letters.len() + 8);
    for (at, &letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let starts_word = letter.is_uppercase()
            && before.is_some_and(|before| {
                !before.is_uppercase() && before != '_'
                    || before.is_uppercase() && letters.get(at + 1).is_some_and(|next| next.is_lowercase())
            });
        if starts_word {
            name.push('_');
        }
        name.extend(letter.to_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_types_in_snake_case_without_a_trailing_command() {
        for (type_name, name) in [
            ("SendEmailCommand", "send_email"),
            ("SendEmail", "send_email"),
            ("GetUserQuery", "get_user_query"),
            ("Command", "command"),
            ("CommandLine", "command_line"),
            ("HTTPPing", "http_ping"),
            ("ParseJSON", "parse_json"),
            ("Base64Encode", "base64_encode"),
            ("Snake_Case", "snake_case"),
            ("r#Type", "type"),
        ] {
            assert_eq!(request_name(type_name), name, "{type_name}");
        }
    }
}
