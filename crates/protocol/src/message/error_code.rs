//! Why a message node rejected a message. The numbers are those of pyaleph (`ErrorCode` in `types/message_status.py`),
//! because existing clients print and compare them.

macro_rules! error_codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant = $code,)* }

        impl $name {
            /// The number on the wire.
            pub const fn code(self) -> i32 {
                self as i32
            }

            /// The code with this number.
            pub const fn from_code(code: i32) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// One sentence for people: what is wrong and what to do.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

error_codes! {
    /// The reason of a rejection.
    ErrorCode {
        /// The node itself failed.
        InternalError = -1, "the message node failed on this message; try again later";
        /// Malformed or against the schema.
        InvalidFormat = 0, "the message does not follow the schema of its type; correct the field that is named";
        /// Not signed by its sender.
        InvalidSignature = 1, "the signature was not made by the sender's key";
        /// Not the owner, nor authorised by the owner.
        PermissionDenied = 2, "the sender may not act for this address; send it from the owner's account";
        /// The content is nowhere to be had.
        ContentUnavailable = 3, "the content of the message could not be found; upload it first";
        /// The stored file is nowhere to be had.
        FileUnavailable = 4, "the file of the message could not be found; upload it first";
        /// Too few tokens.
        BalanceInsufficient = 5, "the owner's balance is below the price; top it up or ask for fewer resources";
        /// Too few credits.
        CreditInsufficient = 6, "the owner's credits are below the price; buy credits or ask for fewer resources";
        /// An amend without a target.
        PostAmendNoTarget = 100, "an amend must name the post it amends in `ref`";
        /// An amend of something unknown.
        PostAmendTargetNotFound = 101, "the post that is to be amended is unknown";
        /// An amend of an amend.
        PostAmendAmend = 102, "an amend cannot be amended; amend the original post";
        /// A revision of an unknown file.
        StoreRefNotFound = 200, "the STORE message that `ref` names is unknown";
        /// A revision of a revision.
        StoreUpdateUpdate = 201, "`ref` must name the first version of the file, not a later one";
        /// A way to pay that is not accepted here.
        InvalidPaymentMethod = 202, "this way to pay is not accepted here; use `hold`";
        /// A version of an unknown program.
        VmRefNotFound = 300, "the program that `replaces` names is unknown";
        /// A file that the program needs is unknown.
        VmVolumeNotFound = 301, "a file that the program refers to is unknown; upload it first";
        /// The program was made without `allow_amend`.
        VmAmendNotAllowed = 302, "the program that `replaces` names may not be amended";
        /// A version of a version.
        VmUpdateUpdate = 303, "`replaces` must name the first version of the program";
        /// Less room than the parent image needs.
        VmVolumeTooSmall = 304, "a volume is smaller than its parent image";
        /// Nothing to forget.
        ForgetNoTarget = 500, "name at least one message or aggregate to forget";
        /// Something unknown to forget.
        ForgetTargetNotFound = 501, "a message that is to be forgotten is unknown";
        /// Forgetting a FORGET.
        ForgetForget = 502, "a FORGET message cannot be forgotten";
        /// Forgetting what is in use.
        ForgetNotAllowed = 503, "a program still uses this file; delete the program first";
        /// A message that was forgotten before it arrived again.
        ForgottenDuplicate = 504, "this message was forgotten";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_return_to_themselves() {
        for code in -1..600 {
            if let Some(known) = ErrorCode::from_code(code) {
                assert_eq!(known.code(), code);
                assert!(!known.explanation().is_empty());
            }
        }
        assert_eq!(ErrorCode::from_code(5), Some(ErrorCode::BalanceInsufficient));
        assert_eq!(ErrorCode::from_code(77), None);
    }
}
