{{ config(
    materialized='incremental',
    incremental_strategy='merge',
    unique_key='order_id',
    on_schema_change='fail'
) }}

-- Only what an order says of itself. Its number among the customer's orders, the customer's segment and the product's
-- category change without the order: an increment would leave the old ones standing.
select
    orders.order_id,
    orders.customer_id,
    orders.product_id,
    orders.total,
    orders.cost,
    orders.status,
    orders.order_timestamp,
    orders.order_date,
    orders.updated_at
from {{ ref('stg_orders') }} as orders
{% if is_incremental() %}
where
    orders.updated_at >= (
        select max(newest.updated_at) - make_dt_interval({{ var('overlap_days') }}) from {{ this }} as newest
    )
    -- an overlap alone misses what was committed later than that, or imported with an old time, or let in by an earlier
    -- start date
    or not exists (
        select 1
        from {{ this }} as known
        where known.order_id = orders.order_id and known.updated_at = orders.updated_at
    )
{% endif %}
