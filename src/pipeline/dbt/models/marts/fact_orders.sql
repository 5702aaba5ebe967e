{{ config(partition_by=['order_date']) }}

select
    orders.order_id,
    orders.customer_id,
    orders.product_id,
    orders.total,
    orders.cost,
    orders.status,
    orders.order_timestamp,
    orders.order_date,
    customers.segment,
    customers.region,
    products.product_category,
    orders.order_sequence as customer_order_number
from {{ ref('stg_orders') }} as orders
left join {{ ref('stg_customers') }} as customers
    on orders.customer_id = customers.customer_id
left join {{ ref('stg_products') }} as products
    on orders.product_id = products.product_id
