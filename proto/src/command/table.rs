//! The macros behind the table of commands: what is made from its rows.
//!
//! A role stands in a row or does not. That is why each role has a place of its own in the pattern: a set
//! of commands is made from the rows that have its role.

/// Makes everything that depends on nothing but the command, from the one table.
macro_rules! commands {
    ($(
        $(#[$doc:meta])* $name:ident = $number:literal, $limit:expr,
        $(early($early:ident))?
        $(gateway($gateway:ident))?
        $(storage($storage:ident, $repeat:ident, $answerer:ident))?
        $(merged($merged:ident, $repeats:ident, $answerers:ident))?
        $(nobody($nobody:ident))?
        $(answer($answer:ident))?
        $(push($push:ident))?
    ;)*) => {
        /// What a frame asks for, answers or tells.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Command { $($(#[$doc])* $name = $number,)* }

        subset! {
            /// What the gateway serves before the login too.
            EarlyCommand: $($($name $early)?)*
        }
        subset! {
            /// What the gateway serves itself.
            GatewayCommand: $($($name $gateway)?)*
        }
        subset! {
            /// What storage serves: the gateway passes it on.
            StorageCommand: $($($name $storage)? $($name $merged)?)*
        }
        subset! {
            /// What several parts of storage serve, each its own part: their answers are merged.
            #[expect(clippy::enum_variant_names, reason = "each is a request so far, and not by rule")]
            MergedCommand: $($($name $merged)?)*
        }
        subset! {
            /// What the server says by itself.
            PushCommand: $($($name $push)?)*
        }

        impl Command {
            /// Every command, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the command that `number` stands for, if any.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// Returns the name, for logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// Returns the largest length that a whole frame with this command may have.
            pub const fn size_limit(self) -> usize {
                match self { $(Self::$name => $limit,)* }
            }

            const fn roles(self) -> &'static [(Clients, Role)] {
                match self { $(Self::$name => &[
                    $((Clients::$early, Role::Served(ServedBy::Early(EarlyCommand::$name))),)?
                    $((Clients::$gateway, Role::Served(ServedBy::Gateway(GatewayCommand::$name))),)?
                    $((Clients::$storage, Role::Served(ServedBy::Storage(StorageCommand::$name))),)?
                    $((Clients::$merged, Role::Served(ServedBy::Storage(StorageCommand::$name))),)?
                    $((Clients::$nobody, Role::Unserved),)?
                    $((Clients::$answer, Role::Answer),)?
                    $((Clients::$push, Role::Push(PushCommand::$name)),)?
                ],)* }
            }

            /// Reads `body` as this command's message and writes it again, in the form that we
            /// write. Unknown fields are gone then. For tests, fuzzing and dumps.
            ///
            /// # Errors
            ///
            /// If `body` is no such message.
            pub fn reencode(self, body: Bytes) -> Result<Vec<u8>, DecodeError> {
                match self {
                    $(Self::$name => Ok(client::$name::decode(body)?.encode_to_vec()),)*
                }
            }

            /// Reads `body` as this command's message and shows it. Message text and passwords are
            /// in there, so it is for tests and dumps, never for logs.
            ///
            /// # Errors
            ///
            /// If `body` is no such message.
            pub fn describe(self, body: Bytes) -> Result<String, DecodeError> {
                match self {
                    $(Self::$name => Ok(format!("{:?}", client::$name::decode(body)?)),)*
                }
            }
        }

        impl StorageCommand {
            /// Returns which part of storage answers.
            pub const fn answerer(self) -> Answerer {
                match self { $(
                    $(Self::$name => Answerer::$answerer,)?
                    $(Self::$name => Answerer::$answerers,)?
                )* }
            }

            /// Returns whether it may be asked again when it is unknown what became of it.
            pub const fn repeat(self) -> Repeat {
                match self { $(
                    $(Self::$name => Repeat::$repeat,)?
                    $(Self::$name => Repeat::$repeats,)?
                )* }
            }

            /// Returns which db_proxies are asked when `user` says this with `body`. What cannot be
            /// read is for any owner, which will say so.
            pub fn route(self, body: &Bytes, user: UserId) -> Route {
                match self { $(
                    $(Self::$name => route!($answerer $name body user),)?
                    $(Self::$name => route!($answerers $name body user),)?
                )* }
            }
        }

        $(const _: () = {
            assert!(
                are_whole(Command::$name.roles()),
                concat!(stringify!($name), ": one role of a client, one of the server, or one of each"),
            );
            $(assert!(
                can_be_merged(Repeat::$repeats, Answerer::$answerers),
                concat!(stringify!($name), ": merged is what several owners answer, each until it has"),
            );)?
        };)*
    };
}

/// Makes an enum of some commands. Each comes with a word of its row, which says only that it belongs here.
macro_rules! subset {
    ($(#[$doc:meta])* $set:ident: $($name:ident $word:ident)*) => {
        $(#[$doc])*
        ///
        /// A part of [`Command`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $set { $(#[doc = concat!("[`Command::", stringify!($name), "`].")] $name,)* }

        impl $set {
            /// Every one of them, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the same as one of all commands.
            pub const fn command(self) -> Command {
                match self { $(Self::$name => Command::$name,)* }
            }
        }
    };
}

/// The route of one command, by the `Answerer` in its row. Where it depends on the message, the message
/// must have the fields that are read here.
macro_rules! route {
    (LoginSide $name:ident $body:ident $user:ident) => {
        Route::Logins
    };
    (AnyOwner $name:ident $body:ident $user:ident) => {
        Route::AnyOwner
    };
    (OwnerOfSession $name:ident $body:ident $user:ident) => {{
        let request = client::$name::decode($body.clone()).ok();
        Route::to_owner(request.and_then(|request| {
            ConversationId::of_session($user, request.session_type, request.session_id)
        }))
    }};
    (OwnerOfGroup $name:ident $body:ident $user:ident) => {{
        let request = client::$name::decode($body.clone()).ok();
        let id = request.map(|request| GroupId(request.group_id));
        Route::to_owner(id.and_then(ConversationId::group))
    }};
    (EveryOwner $name:ident $body:ident $user:ident) => {
        Route::Everything(MergedCommand::$name)
    };
    (OwnersOfGroups $name:ident $body:ident $user:ident) => {{
        let request = client::$name::decode($body.clone()).unwrap_or_default();
        let ids = request.groups.iter().map(|asked| GroupId(asked.group_id));
        Route::to_owners(MergedCommand::$name, ids.filter_map(ConversationId::group).collect())
    }};
}
