//! Which members of an answer matter, and what for.

use super::Field;

/// What the value at hand is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Root,
    Choices,
    Choice,
    Delta,
    Calls,
    Call,
    Function,
    Part(Field),
    Text(Field),
    ChoiceIndex,
    CallIndex,
    Finish,
    Usage,
    Error,
    Type,
    Padding,
    Holder,
    Other,
}

/// The container that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Root,
    Choices,
    Choice,
    Delta,
    Calls,
    Call,
    Function,
    Parts(Field),
    Part(Field),
    Holder,
}

/// What an element of the array `node` is for.
pub(super) fn element(node: Node) -> Role {
    match node {
        Node::Choices => Role::Choice,
        Node::Calls => Role::Call,
        Node::Parts(field) => Role::Part(field),
        _ => Role::Other,
    }
}

/// What the member `key` of the object `node` is for.
pub(super) fn role(node: Node, key: &[u8]) -> Role {
    match (node, key) {
        (Node::Root, b"choices") => Role::Choices,
        (Node::Root | Node::Holder, b"usage") => Role::Usage,
        (Node::Root, b"error") => Role::Error,
        (Node::Root, b"type") => Role::Type,
        // Responses put their usage there, Groq its own when nobody asked.
        (Node::Root, b"response" | b"x_groq") => Role::Holder,
        (Node::Root, b"obfuscation" | b"p") => Role::Padding,
        (Node::Choice, b"index") => Role::ChoiceIndex,
        (Node::Choice, b"delta" | b"message") => Role::Delta,
        (Node::Choice, b"text") => Role::Text(Field::Text),
        (Node::Choice, b"finish_reason") => Role::Finish,
        (Node::Delta, b"content") => Role::Text(Field::Content),
        (Node::Delta, b"reasoning_content") => Role::Text(Field::Reasoning),
        (Node::Delta, b"reasoning") => Role::Text(Field::ReasoningTwin),
        (Node::Delta, b"refusal") => Role::Text(Field::Refusal),
        (Node::Delta, b"tool_calls") => Role::Calls,
        (Node::Delta, b"function_call") => Role::Function,
        (Node::Call, b"index") => Role::CallIndex,
        (Node::Call, b"function") => Role::Function,
        (Node::Function, b"arguments") => Role::Text(Field::Arguments(0)),
        (Node::Part(field), b"text") => Role::Text(field),
        (Node::Part(_), b"thinking") => Role::Text(Field::Reasoning),
        _ => Role::Other,
    }
}
