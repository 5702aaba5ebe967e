-- What is computed anew at the end of each run. A unique index lets it be done while others read.
CREATE MATERIALIZED VIEW IF NOT EXISTS mv_monthly_orders AS
SELECT order_month AS month, count(*) AS order_count, sum(total) AS revenue, count(DISTINCT customer_id) AS unique_customers
FROM fact_orders
GROUP BY order_month;

CREATE UNIQUE INDEX IF NOT EXISTS mv_monthly_orders_month ON mv_monthly_orders (month);

REFRESH MATERIALIZED VIEW CONCURRENTLY mv_monthly_orders;
