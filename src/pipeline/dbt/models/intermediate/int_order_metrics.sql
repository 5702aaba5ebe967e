select
    customer_id,
    count(*) as total_orders,
    sum(total) as lifetime_value,
    -- not avg(): it rounds to six digits first, and from there a second time
    cast(round(sum(total) / count(*), 2) as decimal(14, 2)) as avg_order_value,
    min(order_date) as first_order_date,
    max(order_date) as last_order_date,
    datediff(max(order_date), min(order_date)) as customer_tenure_days
from {{ ref('stg_orders') }}
group by customer_id
