-- Seeded events and the right answers to them, from $events, $seed and $hours alone.
--
-- Each record's luck is a hash of its number, so the same arguments give the same bytes (with the same DuckDB). Arrivals are spread evenly
-- over the hours of event time. Of the orders 8 % are cancellations, 5 % come up to 8 minutes late, 0.5 % 10.5 to 70 minutes, 1 % are exact
-- copies of an order of the 30 seconds before, 0.1 % are malformed in one of four ways; half a percent names a product that does not exist.
CREATE MACRO luck(number, salt) AS (hash(number, salt, getvariable('seed')) >> 11)::DOUBLE / 9007199254740992.0;
CREATE MACRO money(cents) AS (cents::DECIMAL(18, 0) * 0.01)::DECIMAL(18, 2);
CREATE MACRO upto(number, salt, most) AS floor(luck(number, salt) * most)::BIGINT;

CREATE TABLE drawn AS
SELECT
    i,
    getvariable('start_ms') + i * getvariable('span_ms') // getvariable('events') AS arrival_ms,
    luck(i, 'cancels') < 0.09 AS may_cancel,
    i - 1 - upto(i, 'cancelled', greatest(getvariable('events') // 20, 1)) AS cancelled,
    luck(i, 'copies') < 0.0105 AS may_copy,
    i - 1 - upto(i, 'copied', greatest(getvariable('events')::BIGINT * 30000 // getvariable('span_ms'), 1)) AS copied,
    CASE WHEN luck(i, 'malformed') < 0.001 THEN 1 + upto(i, 'way', 4) ELSE 0 END AS malformed,
    CASE
        WHEN luck(i, 'late') < 0.05 THEN 1000 + upto(i, 'lateness', 480000 - 1000)
        WHEN luck(i, 'late') < 0.055 THEN 630000 + upto(i, 'lateness', 4200000 - 630000)
        ELSE 0
    END AS lateness_ms,
    floor(100000 ** luck(i, 'customer'))::BIGINT AS customer, -- log-uniform: the k-th comes with a frequency of 1/k
    CASE WHEN luck(i, 'unknown') < 0.005 THEN 10000 ELSE 0 END + upto(i, 'product', 10000) AS product,
    100 + upto(i, 'price', 19900) AS price_cents,
    1 + upto(i, 'quantity', 4) AS quantity
FROM range(getvariable('events')) AS numbers(i);

CREATE TABLE stated AS -- what each record would say, were it no copy
SELECT
    d.i,
    d.arrival_ms,
    d.arrival_ms - d.lateness_ms AS event_ms,
    d.lateness_ms >= 630000 AS is_too_late,
    c.i IS NOT NULL AS is_cancellation,
    coalesce(c.i, d.i) AS order_number,
    coalesce(c.customer, d.customer) AS customer,
    coalesce(c.product, d.product) AS product,
    coalesce(c.price_cents, d.price_cents) AS price_cents,
    coalesce(c.quantity, d.quantity) AS quantity,
    d.malformed,
    d.may_copy,
    d.copied
FROM drawn AS d
LEFT JOIN drawn AS c ON d.may_cancel AND c.i = d.cancelled AND NOT c.may_cancel;

CREATE TABLE orders AS
SELECT
    s.i AS number,
    s.arrival_ms + 50 AS arrival_ms, -- no event is ahead of its record
    CASE WHEN o.i IS NULL THEN s ELSE o END AS said,
    o.i IS NOT NULL AS is_copy
FROM stated AS s
LEFT JOIN stated AS o
    ON s.may_copy AND s.malformed = 0 AND o.i = s.copied AND NOT o.may_copy AND o.malformed = 0 AND NOT o.is_too_late;
DROP TABLE drawn;
DROP TABLE stated;

-- The last record of each partition comes three hours later and closes all windows; its own are compared with nothing.
CREATE TABLE order_records AS
SELECT number, arrival_ms, said.customer % 4 AS partition, format('c{:06d}', said.customer) AS key,
    CASE WHEN said.malformed = 1 THEN left(document, -25) ELSE document END AS value
FROM (
    SELECT *, concat(
        '{"event_type":"',
        CASE WHEN said.malformed = 2 THEN 'order_teleported' WHEN said.is_cancellation THEN 'order_cancelled' ELSE 'order_created' END,
        '","order_id":"', format('o{:012d}', said.order_number),
        '","customer_id":"', CASE WHEN said.malformed = 3 THEN '' ELSE format('c{:06d}', said.customer) END,
        '","total":', CASE WHEN said.malformed = 4 THEN '-' ELSE '' END, money(said.price_cents * said.quantity),
        ',"status":"', CASE WHEN said.is_cancellation THEN 'cancelled' ELSE 'pending' END,
        '","items":[{"product_id":"', format('p{:05d}', said.product),
        '","price":', money(said.price_cents), ',"quantity":', said.quantity,
        '}],"timestamp":"', strftime(make_timestamp(said.event_ms * 1000), '%Y-%m-%dT%H:%M:%S.%gZ'), '"}') AS document
    FROM orders
)
UNION ALL
SELECT getvariable('events') + i, getvariable('closing_ms') + 50, i, format('closing-{}', i),
    format('{{"event_type":"order_created","order_id":"closing-{}","customer_id":"closing-{}","total":1.00,"items":[{{"product_id":"closing","price":1.00}}],"timestamp":"{}"}}',
        i, i, strftime(make_timestamp(getvariable('closing_ms') * 1000), '%Y-%m-%dT%H:%M:%S.%gZ'))
FROM range(4) AS partitions(i);

-- Every product once, two hours before the first order, then as many updates as a twentieth of the events.
CREATE TABLE products AS
SELECT number, product, event_ms, 100 + upto(number, 'product price', 19900) AS price_cents, 50 + upto(number, 'cost', 15000) AS cost_cents,
    upto(product, 'category', 20) AS category
FROM (
    SELECT i AS number, i AS product, getvariable('start_ms') - 7200000 + i AS event_ms FROM range(10000) AS firsts(i)
    UNION ALL
    SELECT 10000 + i, upto(i, 'updated', 10000), getvariable('start_ms') + i * getvariable('span_ms') // (getvariable('events') // 20)
    FROM range(getvariable('events') // 20) AS updates(i)
)
QUALIFY row_number() OVER (PARTITION BY product, event_ms ORDER BY number) = 1;

CREATE TABLE product_records AS
SELECT number, event_ms + 50 AS arrival_ms, product % 4 AS partition, format('p{:05d}', product) AS key,
    concat('{"product_id":"', format('p{:05d}', product), '","name":"Product ', product, '","product_category":"', format('category-{:02d}', category),
        '","price":', money(price_cents), ',"cost":', money(cost_cents),
        ',"timestamp":"', strftime(make_timestamp(event_ms * 1000), '%Y-%m-%dT%H:%M:%S.%gZ'), '"}') AS value
FROM products
UNION ALL
SELECT getvariable('events') + i, getvariable('closing_ms') + 50, i, format('closing-{}', i),
    format('{{"product_id":"closing-{}","name":"closing","product_category":"closing","price":1.00,"cost":1.00,"timestamp":"{}"}}',
        i, strftime(make_timestamp(getvariable('closing_ms') * 1000), '%Y-%m-%dT%H:%M:%S.%gZ'))
FROM range(4) AS partitions(i);

-- The right answers. `sure_` is what every stream must have, whatever it drops as late; a batch has it all.
CREATE TABLE created AS
SELECT DISTINCT ON (said.order_number, said.event_ms) said.*
FROM orders WHERE said.malformed = 0 AND NOT said.is_cancellation;

CREATE TABLE hourly_spend AS
SELECT
    format('c{:06d}', customer) AS customer_id,
    make_timestamp(event_ms // 3600000 * 3600000000) AS window_start,
    money(sum(price_cents * quantity)) AS hourly_spend,
    count(*) AS order_count,
    money(coalesce(sum(price_cents * quantity) FILTER (NOT is_too_late), 0)) AS sure_spend,
    count(*) FILTER (NOT is_too_late) AS sure_count
FROM created GROUP BY ALL;

CREATE TABLE enriched_lines AS
SELECT format('o{:012d}', c.order_number) AS order_id, format('p{:05d}', c.product) AS product_id,
    CASE WHEN p.product IS NOT NULL THEN concat('Product ', p.product) END AS name, money(p.cost_cents) AS cost, NOT c.is_too_late AS is_sure
FROM created AS c ASOF LEFT JOIN products AS p ON c.product = p.product AND c.event_ms >= p.event_ms;
