-- Balances that trusted senders published (POST of type balances-update).
CREATE TABLE balances (
    account TEXT   NOT NULL, -- canonical
    chain   TEXT   NOT NULL,
    dapp    TEXT   NOT NULL, -- empty for those that count: held by the account itself
    balance TEXT   NOT NULL, -- tokens (decimal text)
    height  BIGINT NOT NULL, -- of the chain, as of which it is
    author  TEXT   NOT NULL, -- who published it, canonical
    PRIMARY KEY (account, chain, dapp)
);
CREATE INDEX balances_by_chain ON balances (chain, dapp);
