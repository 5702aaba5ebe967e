-- The warehouse's tables. A change of a column is made by hand: tables that are there stay as they are.
CREATE TABLE IF NOT EXISTS fact_orders (
    order_id text PRIMARY KEY,
    customer_id text NOT NULL,
    total numeric(12, 2) NOT NULL,
    cost numeric(12, 2) NOT NULL,
    status text NOT NULL,
    created_at timestamptz NOT NULL,
    order_date date NOT NULL,
    order_month date NOT NULL,
    segment text,
    region text,
    profit_margin numeric(18, 4)
);

-- A row for each run that has loaded. `source` and `lake` say where its rows came from: another one is read from the beginning.
CREATE TABLE IF NOT EXISTS etl_runs (
    run bigint PRIMARY KEY,
    source text NOT NULL,
    snapshot pg_snapshot NOT NULL,
    lake text NOT NULL,
    facts bigint NOT NULL,
    loaded_at timestamptz NOT NULL DEFAULT now()
);

-- The newest updated_at that the run had seen in each table of the source.
CREATE TABLE IF NOT EXISTS etl_watermarks (
    table_name text PRIMARY KEY,
    watermark timestamptz,
    run bigint NOT NULL REFERENCES etl_runs
);
