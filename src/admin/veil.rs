//! Answers with the addresses in them masked, for roles that may not reveal them: where journal and log are masked, the views
//! of the queue would tell what those keep back.

use axum::body::{Body, to_bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::Role;
use super::error::Refusal;
use crate::mask::Mask;

/// An answer as this role may see it.
pub(super) async fn veiled(mask: &Mask, role: Option<Role>, response: Response) -> Response {
    if mask.is_none() || role == Some(Role::Admin) {
        return response;
    }
    let (mut head, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let shown = match serde_json::from_slice::<Value>(&body) {
        Ok(mut answer) => {
            veil(&mut answer, mask, &[]);
            answer.to_string()
        }
        Err(_) => match std::str::from_utf8(&body) {
            Ok(text) => mask.text(text).into_owned(),
            Err(_) => {
                let told = "this answer is neither JSON nor text, so that no address in it can be masked";
                let hint = "a token of the role admin sees it as it is";
                return Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, told, hint).into_response();
            }
        },
    };
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::from(shown))
}

/// Masks every text within; in those of one object also the local-parts of the addresses that stand beside them or around them.
fn veil(value: &mut Value, mask: &Mask, around: &[&str]) {
    match value {
        Value::String(text) => *text = mask.text_about(text, around).into_owned(),
        Value::Array(items) => items.iter_mut().for_each(|item| veil(item, mask, around)),
        Value::Object(fields) => {
            let beside: Vec<String> = fields.values().filter_map(address).collect();
            let known: Vec<&str> = around.iter().copied().chain(beside.iter().map(String::as_str)).collect();
            let taken = std::mem::take(fields);
            for (name, mut field) in taken {
                veil(&mut field, mask, &known);
                fields.insert(mask.text(&name).into_owned(), field);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// A text that is an address and nothing else.
fn address(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    let is_one = text.matches('@').count() == 1 && !text.contains(char::is_whitespace);
    is_one.then(|| text.trim_start_matches('<').trim_end_matches('>').to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn addresses_are_masked_wherever_they_stand_and_nothing_else_is() {
        let mut answer = json!({
            "reverse_path": "<news@shop.example>",
            "recipients": [
                { "address": "tom@example.com", "reply": "550 user tom unknown (tom@example.com)", "attempts": 3 },
                { "address": "ann@example.com", "reply": "450 tom is someone else here", "is_held": true },
            ],
            "by": { "eve@example.com": 7 },
            "site": "mx.example.com",
        });

        veil(&mut answer, &Mask::Partial, &[]);

        let seen = json!({
            "reverse_path": "<n***@shop.example>",
            "recipients": [
                { "address": "t***@example.com", "reply": "550 user t***@example.com unknown (t***@example.com)", "attempts": 3 },
                { "address": "a***@example.com", "reply": "450 tom is someone else here", "is_held": true },
            ],
            "by": { "e***@example.com": 7 },
            "site": "mx.example.com",
        });
        assert_eq!(answer, seen);
    }
}
