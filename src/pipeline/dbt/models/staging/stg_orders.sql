select
    order_id,
    customer_id,
    product_id,
    total,
    cost,
    status,
    created_at as order_timestamp,
    to_date(created_at) as order_date,
    updated_at,
    row_number() over (partition by customer_id order by created_at, order_id) as order_sequence
from {{ source('raw', 'orders') }}
where created_at >= timestamp '{{ var("start_date") }}T00:00:00Z'
