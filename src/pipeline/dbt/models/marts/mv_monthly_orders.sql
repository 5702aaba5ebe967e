select
    trunc(order_date, 'MM') as month,
    count(*) as order_count,
    sum(total) as revenue,
    count(distinct customer_id) as unique_customers
from {{ ref('fact_orders') }}
group by trunc(order_date, 'MM')
